"""The options of `defer`, each an underscore and a name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db import transaction

from cloudtask import clock
from cloudtask.deferred import defer
from cloudtask.exceptions import DuplicateTask, EnqueueError, PayloadTooLarge
from cloudtask.message import Enqueued
from cloudtask.options import Backoff
from cloudtask.testing import queued, run_queued
from tests.compat import things
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls

SECOND = timedelta(seconds=1)


def now():
    return datetime.fromtimestamp(clock.now(), UTC)


def only():
    (call,) = queued()
    return call


def test_no_option_reaches_the_function(db):
    defer(
        things.note,
        1,
        _countdown=5,
        _eta=None,
        _name="n",
        _queue="q",
        _transactional=False,
        _using="default",
        _small_task=True,
        _wipe_related_caches=True,
        _retry_options={"task_retry_limit": 3},
        _service="s",
        _version="v",
        _instance="i",
        _url="/run/",
        _headers={"X-Key": "1"},
        own=2,
    )
    run_queued()
    assert calls == [((1,), {"own": 2})]


def test_defer_returns_a_receipt():
    assert isinstance(defer(things.note), Enqueued)


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("_service", "service", "worker"),
        ("_version", "version", "v2"),
        ("_instance", "instance", "i1"),
        ("_url", "url", "/elsewhere/"),
        ("_headers", "headers", {"X-Key": "1"}),
        ("_small_task", "small", True),
        ("_small", "small", True),
        ("_using", "database", "other"),
        ("_transactional", "transactional", False),
        ("_wipe_related_caches", "wipe_related_caches", False),
    ],
)
def test_each_becomes_an_option_of_ours(option, name, value):
    defer(things.note, **{option: value})
    assert getattr(only().options, name) == value


@pytest.mark.parametrize(
    "option", ["_queue", "_name", "_eta", "_countdown", "_using", "_url", "_headers"]
)
def test_none_is_as_good_as_leaving_it_out(option):
    defer(things.note, **{option: None})
    assert (only().queue, only().eta, only().options.database) == (
        "default",
        None,
        "default",
    )


def test_queue_names_the_queue():
    defer(things.note, _queue="mail")
    assert only().queue == "mail"


def test_queue_may_come_with_its_path():
    defer(things.note, _queue="projects/p/locations/l/queues/mail")
    assert only().queue == "mail"


def test_a_name_can_be_used_once():
    defer(things.note, _name="once")
    assert only().name == "once"
    with pytest.raises(DuplicateTask):
        defer(things.note, _name="once")


def test_target_is_refused_with_advice():
    with pytest.raises(UserWarning, match="_version"):
        defer(things.note, _target="v1")


class TestTime:
    def test_countdown_is_in_seconds(self):
        before = now()
        defer(things.note, _countdown=60)
        assert before <= only().eta - 60 * SECOND <= now()

    def test_countdown_may_be_a_fraction_or_a_timedelta(self):
        defer(things.note, _countdown=0.5)
        defer(things.note, _countdown=timedelta(hours=1))
        assert [call.eta is not None for call in queued()] == [True, True]

    def test_eta_is_the_moment(self):
        moment = datetime.now(UTC) + timedelta(hours=1)
        defer(things.note, _eta=moment)
        assert abs(only().eta - moment) < timedelta(milliseconds=1)

    def test_a_naive_eta_is_in_utc(self):
        moment = datetime.now(UTC) + timedelta(hours=1)
        defer(things.note, _eta=moment.replace(tzinfo=None))
        assert abs(only().eta - moment) < timedelta(milliseconds=1)

    def test_countdown_overrides_eta(self):
        defer(things.note, _countdown=60, _eta=datetime.now(UTC) + timedelta(days=9))
        assert only().eta < datetime.now(UTC) + timedelta(days=1)

    @pytest.mark.parametrize(
        "options",
        [
            {"_eta": datetime(2012, 1, 1, tzinfo=UTC)},
            {"_eta": datetime(2012, 1, 1)},
            {"_countdown": -60},
            {"_countdown": 0},
        ],
        ids=str,
    )
    def test_a_moment_that_is_past_means_now(self, options):
        defer(things.note, **options)
        assert only().eta is None

    def test_more_than_thirty_days_are_refused_as_the_service_would(self):
        with pytest.raises(EnqueueError, match="30"):
            defer(things.note, _countdown=31 * 24 * 3600)


class TestRetryOptions:
    def test_those_of_app_engine_become_attempts_and_backoff(self):
        given = SimpleNamespace(
            task_retry_limit=4, min_backoff_seconds=2, max_backoff_seconds=60
        )
        defer(things.note, _retry_options=given)
        assert only().options.max_attempts == 5
        assert only().options.backoff == Backoff(2 * SECOND, 60 * SECOND)

    def test_those_of_cloud_tasks_do_too(self):
        given = {"max_attempts": 5, "min_backoff": 2 * SECOND, "max_doublings": 3}
        defer(things.note, _retry_options=given)
        assert only().options.max_attempts == 5
        assert only().options.backoff == Backoff(min=2 * SECOND, doublings=3)

    def test_a_backoff_of_ours_will_do(self):
        defer(things.note, _retry_options=Backoff(min=3))
        assert only().options.backoff == Backoff(min=3)

    @pytest.mark.parametrize(
        "given",
        [{"task_age_limit": 60}, SimpleNamespace(task_age_limit=60), {"retries": 2}],
        ids=str,
    )
    def test_what_a_single_task_can_not_have_is_refused(self, given):
        with pytest.raises(TypeError, match="_retry_options"):
            defer(things.note, _retry_options=given)

    def test_a_retry_limit_of_none_retries_as_the_queue_does(self):
        defer(things.note, _retry_options={"task_retry_limit": None})
        assert only().options.max_attempts is None

    def test_the_attempts_are_those_that_are_made(self, db):
        defer(things.fail, _retry_options={"task_retry_limit": 2})
        report = run_queued(errors="retry")
        assert calls == [1, 2, 3]
        assert len(report.failed) == 1


class TestSmall:
    def test_a_small_task_of_more_than_100_kib_is_refused(self):
        with pytest.raises(PayloadTooLarge, match="small"):
            defer(things.note, "x" * 150_000, _small_task=True)

    def test_any_other_travels_through_the_store_when_it_must(self, db):
        value = "".join(map(chr, range(33, 0x800))) * 3000  # megabytes
        defer(things.note, value)
        run_queued()
        assert calls == [((value,), {})]


class TestTransactions:
    def test_outside_of_a_transaction_it_is_sent_at_once(self):
        defer(things.note)
        assert not only().awaits_commit

    @pytest.mark.django_db(transaction=True)
    def test_inside_of_a_transaction_it_awaits_the_commit(self):
        with transaction.atomic():
            defer(things.note)
            assert only().awaits_commit
        assert not only().awaits_commit

    @pytest.mark.django_db(transaction=True)
    def test_it_can_be_told_not_to(self):
        with transaction.atomic():
            defer(things.note, _transactional=False)
            assert not only().awaits_commit

    @pytest.mark.django_db(databases=["default", "other"], transaction=True)
    def test_using_chooses_the_transaction(self):
        with transaction.atomic(using="other"):
            defer(things.add_author, "at once")
            defer(things.add_author, "never", _using="other")
            transaction.set_rollback(True, using="other")
        run_queued()
        assert [author.name for author in Author.objects.all()] == ["at once"]


class TestRelatedCaches:
    @pytest.fixture
    def book(self, db):
        return Book.objects.create(title="B", author=Author.objects.create(name="A"))

    def test_they_are_wiped(self, book):
        defer(things.is_author_cached, book)
        run_queued()
        assert calls == [False]

    def test_they_are_kept_when_told_so(self, book):
        defer(things.is_author_cached, book, _wipe_related_caches=False)
        run_queued()
        assert calls == [True]

    def test_the_caller_s_own_instance_keeps_them(self, book):
        defer(things.is_author_cached, book)
        assert Book.author.field.is_cached(book)
