"""Every statement of djangae's documentation of its tasks, in its order, as a test.

Statements about the local emulator and the sandbox are in test_sandbox.py.
"""

from __future__ import annotations

import inspect
import random

import pytest
from django.db import transaction

from cloudtask import failpoints, iteration
from cloudtask.deferred import (
    defer,
    defer_iteration_with_finalize,
    get_deferred_shard_index,
)
from cloudtask.exceptions import PayloadTooLarge
from cloudtask.failpoints import Crashed
from cloudtask.models import IterationRun, IterationShard, OutboxMessage, Payload
from cloudtask.runs import RunState
from cloudtask.sending import relay
from cloudtask.testing import assert_enqueued, queued, run_queued
from tests.compat import things
from tests.support import clock
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls

# No compression makes it small.
LARGE = "".join(random.Random(1).choices("".join(map(chr, range(33, 0x800))), k=10**6))


class TestDefer:
    def test_it_defers_a_function_to_be_run_later_by_cloud_tasks(self):
        defer(things.note, 1, key=2)
        assert calls == []
        run_queued()
        assert calls == [((1,), {"key": 2})]

    def test_it_calls_functions_and_methods_from_the_task_queue(self):
        defer(things.two, 1, 2)
        defer(things.Greeter("Hello").greet, "Ann")
        run_queued()
        assert calls == [(1, 2), "Hello, Ann"]

    def test_it_is_a_near_drop_in_the_first_argument_is_called_with_the_rest(self):
        first, rest, options = inspect.signature(defer).parameters.values()
        assert first.name == "obj"
        assert (rest.kind, options.kind) == (rest.VAR_POSITIONAL, options.VAR_KEYWORD)


class TestTheEntity:
    @pytest.mark.django_db(transaction=True)
    def test_an_entity_is_used_unless_the_task_is_marked_as_small(self):
        with transaction.atomic():
            defer(things.note, "large enough")
            assert OutboxMessage.objects.count() == 1
            defer(things.note, "small", _small_task=True)
            assert OutboxMessage.objects.count() == 1

    def test_it_is_used_for_what_does_not_fit_a_task(self, db):
        defer(things.note, LARGE)
        run_queued()
        assert calls == [((LARGE,), {})]
        assert [payload.is_done for payload in Payload.objects.all()] == [True]

    def test_a_task_marked_as_small_must_be_less_than_100_kilobytes(self):
        defer(things.note, "x" * 90_000, _small_task=True)
        with pytest.raises(PayloadTooLarge):
            defer(things.note, "x" * 110_000, _small_task=True)

    @pytest.mark.django_db(transaction=True)
    def test_it_is_gone_when_the_task_is_enqueued(self):
        with transaction.atomic():
            defer(things.note)
        assert OutboxMessage.objects.count() == 0


class TestInstances:
    @pytest.fixture
    def book(self, db):
        Book.objects.create(title="B", author=Author.objects.create(name="A"))
        return Book.objects.select_related("author").get()

    def test_foreign_key_caches_are_wiped_before_deferring(self, book):
        defer(things.is_author_cached, book)
        run_queued()
        assert calls == [False]

    def test_so_that_the_task_does_not_see_stale_relations(self, book):
        defer(things.two, book, 1)
        Author.objects.update(name="New")
        run_queued()
        assert calls[0][0].author.name == "New"

    def test_this_can_be_disabled(self, book):
        defer(things.is_author_cached, book, _wipe_related_caches=False)
        run_queued()
        assert calls == [True]

    def test_the_instance_is_as_it_was_when_it_was_deferred(self, book):
        defer(things.two, book, 1)
        Book.objects.update(title="New")
        run_queued()
        assert calls[0][0].title == "B"


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
class TestTransactions:
    def test_a_task_of_a_failed_transaction_is_never_queued(self):
        with transaction.atomic():
            defer(things.note)
            defer(things.note, _small_task=True)
            transaction.set_rollback(True)
        assert queued() == []
        assert relay.relay("default").sent == 0

    def test_surpassed_a_task_of_a_committed_transaction_runs_whatever_happens(self):
        """djangae: "do not guarantee that the task will run"; here a row does."""
        with (
            pytest.raises(Crashed),
            failpoints.at("outbox.committed", failpoints.crash),
            transaction.atomic(),
        ):
            defer(things.note, "committed")
        assert len(memory_of_the_service()) == 0
        with clock.ahead(60):
            relay.relay("default")
        run_queued()
        assert calls == [(("committed",), {})]

    def test_transactional_defaults_to_true_within_an_atomic_block(self):
        with transaction.atomic():
            defer(things.note)
            assert [call.awaits_commit for call in queued()] == [True]

    def test_transactional_defaults_to_false_otherwise(self):
        defer(things.note)
        assert [call.awaits_commit for call in queued()] == [False]

    def test_a_transactional_task_outside_of_a_transaction_is_queued(self):
        defer(things.note, _transactional=True)
        assert len(memory_of_the_service()) == 1

    def test_using_chooses_the_connection_that_controls_queuing(self):
        with transaction.atomic(using="other"):
            defer(things.note, 1, _using="other")
            defer(things.note, 2, _using="default")
            assert [(call.args[0], call.awaits_commit) for call in queued()] == [
                (2, False),
                (1, True),
            ]

    def test_using_defaults_to_default(self):
        with transaction.atomic(using="default"):
            defer(things.note)
            assert [call.awaits_commit for call in queued()] == [True]
        with transaction.atomic(using="other"):
            defer(things.note)
        assert [call.awaits_commit for call in queued()] == [False, False]


def memory_of_the_service():
    return [call for call in queued() if not call.awaits_commit]


@pytest.fixture
def books(db):
    return [Book.objects.create(title=f"Book {number}") for number in range(30)]


@pytest.fixture
def watch(db):
    """More rows than ten minutes suffice for, and a clock that only callbacks move."""
    Book.objects.bulk_create(Book(title=f"Book {number}") for number in range(90))
    with clock.virtual():
        yield things.stopwatch


def walk(**options):
    """Walk all books, with a callback and a finalize that note their calls."""
    arguments = {
        "queryset": Book.objects.all(),
        "callback": things.note_row,
        "finalize": things.note_end,
    }
    return defer_iteration_with_finalize(**{**arguments, **options})


def rows():
    """The keys of the rows for which a callback was called."""
    return [call[0] for call in calls if call[0] != "end"]


def ends():
    return [call for call in calls if call[0] == "end"]


class TestIteration:
    def test_its_arguments_are_those_of_djangae(self):
        signature = inspect.signature(defer_iteration_with_finalize)
        shown = str(signature.replace(return_annotation=signature.empty))
        names = list(signature.parameters)
        defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        assert names[:4] == ["queryset", "callback", "finalize", "args"], shown
        assert defaults == {
            "args": None,
            "_queue": "default",
            "_shards": 5,
            "_delete_marker": True,
            "_transactional": False,
        }

    def test_it_calls_the_callback_on_each_instance_of_the_queryset(self, books):
        walk()
        run_queued()
        assert sorted(rows()) == [book.pk for book in books]

    def test_it_leaves_out_what_the_queryset_leaves_out(self, books):
        walk(queryset=Book.objects.filter(pk__gt=books[9].pk))
        run_queued()
        assert sorted(rows()) == [book.pk for book in books[10:]]

    def test_once_all_shards_complete_finalize_is_called_once(self, books):
        walk()
        run_queued()
        assert calls[-1] == ("end", (), {})
        assert len(ends()) == 1

    def test_finalize_is_called_for_an_empty_queryset_too(self, db):
        walk()
        run_queued()
        assert calls == [("end", (), {})]

    def test_args_are_passed_to_the_callback_after_the_instance_and_to_finalize(
        self, books
    ):
        walk(args=[1, "two"])
        run_queued()
        assert {call[1] for call in calls} == {(1, "two")}
        assert len(calls) == 31

    def test_kwargs_are_passed_to_both(self, books):
        walk(mode="dry", queryset_of="theirs")
        run_queued()
        expected = {"mode": "dry", "queryset_of": "theirs"}
        assert [call[2] for call in calls] == [expected] * 31

    def test_shards_is_the_number_of_shards(self, books):
        run = walk(callback=things.note_shard, _shards=3, _delete_marker=False)
        run_queued()
        assert {call for call in calls if isinstance(call, int)} == {0, 1, 2}
        assert len(run.report().shards) == 3

    def test_the_marker_is_deleted_by_default_but_for_its_counts(self, books):
        walk()
        run_queued()
        assert IterationShard.objects.count() == 0
        (run,) = IterationRun.objects.all()
        assert (run.is_summary, run.done, bytes(run.description)) == (True, 30, b"")

    def test_the_marker_can_be_kept_as_a_log(self, books):
        walk(_delete_marker=False)
        run_queued()
        (run,) = iteration.list()
        assert run.state is RunState.FINISHED

    def test_queue_works_as_in_defer(self, books):
        walk(_queue="mail")
        seen = set()
        while waiting := queued():
            seen |= {call.queue for call in waiting}
            run_queued(recursive=False)
        assert seen == {"mail"}
        assert len(rows()) == 30

    @pytest.mark.django_db(transaction=True)
    def test_transactional_works_as_in_defer(self):
        Book.objects.create(title="A")
        with transaction.atomic():
            walk(_transactional=True)
            transaction.set_rollback(True)
        assert len(run_queued()) == 0
        with transaction.atomic():
            walk(_transactional=True)
        run_queued()
        assert len(rows()) == 1

    def test_methods_and_instances_may_be_callbacks(self, books):
        marker = things.Marker("Marked")
        walk(callback=marker.mark, finalize=marker.end)
        run_queued()
        assert Book.objects.filter(title="Marked").count() == 30
        assert calls == ["Marked everywhere"]

    def test_the_options_of_newer_versions_are_taken_and_not_needed(self, books):
        walk(key_ranges_getter=things.note, order_field="pk")
        run_queued()
        assert [call[2] for call in calls] == [{}] * 31

    def test_another_order_than_that_of_the_key_is_refused(self, db):
        with pytest.raises(ValueError, match="primary key"):
            walk(order_field="title")

    def test_arguments_that_a_callback_does_not_take_are_refused_at_once(self, books):
        with pytest.raises(TypeError, match="touch"):
            walk(callback=things.touch, args=[1, 2, 3])
        with pytest.raises(TypeError, match="two"):
            walk(finalize=things.two, args=[1])
        assert queued() == []


class TestShards:
    def test_a_shard_that_hits_an_unhandled_exception_continues(self, books):
        things.failures["left"] = 3
        walk(callback=things.fail_some_times)
        run_queued(errors="retry")
        assert sorted(rows()) == [book.pk for book in books]
        assert len(ends()) == 1

    def test_finalize_waits_for_rows_that_fail_however_often(self, books):
        things.failures["left"] = 60
        walk(callback=things.fail_some_times, _shards=1)
        run_queued(errors="retry", limit=10_000)
        assert sorted(rows()) == [book.pk for book in books]
        assert calls[-1] == ("end", (), {})

    def test_a_shard_stops_at_nine_and_a_half_minutes_of_ten(self, watch):
        watch.reset(step=10)
        walk(callback=things.take_time, _shards=1)
        run_queued()
        assert watch.laps[0] == 9.5 * 60
        assert max(watch.laps) == 9.5 * 60

    def test_it_is_then_deferred_again_and_goes_on(self, watch):
        watch.reset(step=10)
        walk(callback=things.take_time, _shards=1)
        run_queued()
        assert len(watch.laps) > 1
        assert sorted(rows()) == [book.pk for book in Book.objects.order_by("pk")]
        assert len(ends()) == 1

    @pytest.mark.parametrize("seconds", [1, 7, 19, 30])
    def test_callbacks_may_take_thirty_seconds(self, watch, seconds):
        watch.reset(step=seconds)
        walk(callback=things.take_time, _shards=1)
        run_queued()
        assert max(watch.laps) <= 10 * 60

    def test_the_shard_can_be_identified_from_its_callback(self, books):
        walk(callback=things.note_shard)
        run_queued()
        seen = [call for call in calls if not isinstance(call, tuple)]
        assert len(seen) == 30
        assert set(seen) <= {0, 1, 2, 3, 4}

    def test_outside_of_a_shard_there_is_no_index(self):
        assert get_deferred_shard_index() is None
        defer(get_deferred_shard_index)
        assert [ran.value for ran in run_queued().attempts] == [None]


class TestFailures:
    def test_a_permanent_failure_is_not_tried_again(self, db):
        defer(things.fail_for_good)
        run_queued(errors="retry")
        assert calls == ["failing"]

    def test_a_singular_failure_is_tried_again(self):
        defer(things.fail_singly)
        run_queued(errors="retry")
        assert calls == ["passed"]

    def test_a_task_that_ran_out_of_time_is_tried_again(self):
        defer(things.run_out_of_time)
        run_queued(errors="retry")
        assert calls == ["passed"]

    def test_any_other_failure_is_tried_again(self):
        defer(things.fail_once)
        run_queued(errors="retry")
        assert calls == [1, 2]

    def test_the_wall_has_its_door_what_is_enqueued_can_be_asserted(self):
        defer(things.note, 1)
        assert_enqueued(things.note, 1)
