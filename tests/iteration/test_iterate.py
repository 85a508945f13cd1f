"""Arguments that iterate() and map() accept or refuse, and open transactions."""

from __future__ import annotations

import pytest
from django.db import ProgrammingError, connections, transaction
from django.db.models import Count, F, OuterRef, Prefetch, Q, Subquery

from cloudtask.exceptions import (
    CloudTaskError,
    ConfigurationError,
    EnqueueUnavailable,
    PayloadTooLarge,
    UnsupportedValue,
)
from cloudtask.iteration import RunState, planner, sweep
from cloudtask.iteration import list as list_runs
from cloudtask.stores import store
from cloudtask.testing import run_queued
from cloudtask.transports import memory
from tests.iteration import tasks
from tests.iteration.models import Mark, Odd, Thing
from tests.iteration.tasks import trace
from tests.support import clock
from tests.testapp.models import Author, Book, Label, Novel, Thriller

BOTH = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def make_things(count):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
    return list(range(1, count + 1))


@pytest.mark.django_db
@pytest.mark.parametrize("count", [0, 1, 7, 600, 2500])
def test_every_row_is_called_once_and_finalize_once(count):
    keys = make_things(count)
    run = tasks.visit.iterate(
        Thing.objects.all(), finalize=tasks.finalize, args=(1,), shards=4, keep=True
    )

    run_queued()

    assert sorted(trace.rows) == keys
    assert trace.calls.count("finalize") == 1
    assert trace.calls[-1] == "finalize"
    assert run.refresh().state is RunState.FINISHED
    assert run.progress().done == count


class Unwalkable:
    pass


REFUSED = {
    "sliced": (lambda: Book.objects.all()[:5], "sliced"),
    "distinct on a field": (lambda: Book.objects.distinct("pages"), "distinct on"),
    "distinct with what a join repeats": (
        lambda: Author.objects.annotate(p=F("books__pages")).distinct(),
        "annotates",
    ),
    "union": (lambda: Book.objects.all().union(Book.objects.all()), "union"),
    "raw": (lambda: Book.objects.raw("SELECT 1"), "raw SQL"),
    "values": (lambda: Book.objects.values("title"), "yields values"),
    "values_list": (lambda: Book.objects.values_list("id"), "yields values"),
    "dates": (lambda: Book.objects.dates("published", "day"), "yields values"),
    "locked": (lambda: Book.objects.select_for_update(), "locks rows"),
    "a list": (lambda: [1, 2], "is list; iterate"),
    "a model": (lambda: Book, "is ModelBase"),
    "an instance": (lambda: Book(), "is Book"),
    "a table beside": (
        lambda: Book.objects.extra(
            tables=["testapp_label"], where=["testapp_label.id > 0"]
        ),
        "may repeat rows",
    ),
    "repeated and counted": (
        lambda: Author.objects.annotate(p=F("books__pages"), n=Count("books__labels")),
        "annotates",
    ),
    "repeated by HAVING": (
        lambda: Author.objects.annotate(n=Count("books__labels")).filter(
            Q(n__gt=0) | Q(books__pages__gt=1)
        ),
        "annotates",
    ),
    "repeated by a subquery": (
        lambda: Author.objects.annotate(
            n=Count("books__labels"),
            title=Subquery(
                Book.objects.filter(pk=OuterRef("books__id")).values("title")[:1]
            ),
        ),
        "annotates",
    ),
    "joined and annotated": (
        lambda: Book.objects.extra(select={"one": "1"}).filter(labels__name="x"),
        "annotates",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_walked_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]

    with pytest.raises(UnsupportedValue, match=reason):
        tasks.visit.iterate(make())


WALKED = {
    "a filter": lambda: Book.objects.filter(pages__gt=1),
    "a manager": lambda: Book.objects,
    "an order": lambda: Book.objects.order_by("-title"),
    "reversed": lambda: Book.objects.order_by("title").reverse(),
    "a join back to the table of a parent": lambda: Novel.objects.filter(
        author__books__title__lt="5"
    ),
    "a count beside a column": lambda: Book.objects.annotate(
        n=Count("labels"), of=F("author__name")
    ),
    "a join without duplicates": lambda: Book.objects.filter(author__name="a"),
    "a join with duplicates": lambda: Book.objects.filter(labels__name__startswith="l"),
    "distinct": lambda: Book.objects.only("id").distinct(),
    "select_related": lambda: Book.objects.select_related("author"),
    "prefetch_related": lambda: Book.objects.prefetch_related("labels"),
    "a Prefetch": lambda: Book.objects.prefetch_related(
        Prefetch("labels", Label.objects.filter(name="l1"))
    ),
    "only": lambda: Book.objects.only("title"),
    "defer": lambda: Book.objects.defer("data"),
    "an aggregate": lambda: Book.objects.annotate(n=Count("labels")).filter(n__gte=2),
    "exclude over a join": lambda: Book.objects.exclude(labels__name="none"),
    "an alias": lambda: Book.objects.using("default"),
    "an inherited model": lambda: Novel.objects.long(),
    "a proxy": lambda: Thriller.objects.filter(pages__gt=1),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", WALKED)
def test_querysets_are_walked_row_by_row(name):
    author = Author.objects.create(name="a")
    labels = [Label.objects.create(name=f"l{n}") for n in range(3)]
    for n in range(9):
        book = Novel.objects.create(title=f"{n}", pages=600, author=author)
        book.labels.set(labels)
    rows = WALKED[name]()

    tasks.visit.iterate(rows, shards=4)
    run_queued()

    assert sorted(trace.rows) == list(range(min(trace.rows), min(trace.rows) + 9))


@pytest.mark.django_db
def test_what_the_queryset_prefetches_is_there():
    book = Book.objects.create(title="b", author=Author.objects.create(name="a"))
    book.labels.add(Label.objects.create(name="l"))
    rows = Book.objects.select_related("author").filter(labels__name="l")

    tasks.note_caches.iterate(rows.prefetch_related("labels").only("title", "author"))
    run_queued()

    assert trace.calls == [(True, True, True)]


class TestOptions:
    def test_options_are_checked_at_the_call(self):
        for error, words, policy in [
            (ValueError, "on_error", {"on_error": "explode"}),
            (ValueError, "atomic", {"atomic": "table"}),
            (ValueError, "shards must be a whole", {"shards": 0}),
            (ValueError, "shards must be 256", {"shards": 257}),
            (ValueError, "batch_size", {"batch_size": True}),
            (ValueError, "max_failures", {"max_failures": -1}),
            (ValueError, "with lists", {"atomic": "row", "batch_size": 2}),
            (TypeError, "finalize must be", {"finalize": 3}),
            (TypeError, "finalize is called", {"finalize": tasks.no_arguments}),
        ]:
            policy = {"args": (1,), **policy}
            with pytest.raises(error, match=words):
                tasks.visit.iterate(Thing.objects.all(), **policy)

    def test_arguments_are_checked_at_the_call(self):
        with pytest.raises(TypeError, match="too many"):
            tasks.visit_only.iterate(Thing.objects.all(), args=(1, 2))

    def test_a_name_is_refused(self):
        with pytest.raises(TypeError, match="leave name= out"):
            tasks.visit.using(name="mine").iterate(Thing.objects.all())

    def test_atomic_needs_the_cursor_in_the_same_database(self):
        with pytest.raises(ConfigurationError, match="ALIAS 'other'"):
            tasks.visit.using(database="other").iterate(
                Thing.objects.all(), atomic="page"
            )

    @pytest.mark.django_db
    def test_an_atomic_task_stays_so(self, world):
        make_things(3)
        tasks.finalize_atomically_for_a_row.iterate(
            Thing.objects.all(), transactional=False
        )
        world.run()

        assert trace.calls == [True, True, True]

    @pytest.mark.django_db
    def test_options_of_using_travel_with_every_step(self, world):
        make_things(3)
        tasks.visit.using(
            queue="slow", timeout=30, service="batch", headers={"X-A": "b"}
        ).iterate(Thing.objects.all(), finalize=tasks.finalize, transactional=False)
        messages = []
        while world.step():
            messages.append(world.delivered[-1][0].message)

        assert len(messages) == 3
        assert {m.queue for m in messages} == {"slow"}
        assert {m.options.service for m in messages} == {"batch"}
        assert {m.options.headers["X-A"] for m in messages} == {"b"}
        walk = messages[1]
        assert walk.options.timeout.total_seconds() == 30


class TestTransactions:
    @BOTH
    def test_a_commit_starts_it(self):
        keys = make_things(3)
        with transaction.atomic():
            tasks.visit.iterate(Thing.objects.all())
            assert len(memory.queue()) == 0
        run_queued()

        assert trace.rows == keys

    @BOTH
    def test_a_rollback_leaves_nothing(self):
        make_things(3)
        with transaction.atomic():
            tasks.visit.iterate(Thing.objects.all())
            transaction.set_rollback(True)
        run_queued()

        assert trace.rows == []
        assert list_runs() == []

    @BOTH
    def test_a_commit_elsewhere_starts_it(self):
        keys = make_things(3)
        with transaction.atomic(using="other"):
            tasks.visit.using(database="other").iterate(Thing.objects.all())
            assert len(memory.queue()) == 0
        run_queued()

        assert trace.rows == keys

    @BOTH
    def test_a_rollback_elsewhere_starts_nothing(self):
        make_things(3)
        with transaction.atomic(using="other"):
            tasks.visit.using(database="other").iterate(Thing.objects.all())
            transaction.set_rollback(True, using="other")
        run_queued()
        with clock.ahead(86_400.0):
            sweep()
        run_queued()

        assert trace.rows == []

    @BOTH
    def test_untransactional_it_starts_whatever_becomes_of_the_transaction(self):
        if connections["default"].vendor == "sqlite":
            with transaction.atomic(), pytest.raises(CloudTaskError, match="SQLite"):
                tasks.visit.iterate(Thing.objects.all(), transactional=False)
            return
        keys = make_things(3)
        with transaction.atomic():
            tasks.visit.iterate(Thing.objects.all(), transactional=False)
            assert len(memory.queue()) == 1
            transaction.set_rollback(True)
        run_queued()

        assert trace.rows == keys

    @BOTH
    def test_what_could_not_be_enqueued_leaves_no_run(self):
        def refuse(message, stage):
            raise EnqueueUnavailable("no")

        memory.queue().trouble = refuse
        with pytest.raises(EnqueueUnavailable):
            tasks.visit.iterate(Thing.objects.all())

        assert list_runs() == []


class TestMap:
    def test_items_are_walked_like_rows(self, any_store):
        items = [f"item {n}" for n in range(30)]

        run = tasks.visit_item.map(
            items, finalize=tasks.finalize, shards=4, keep=True, transactional=False
        )
        run_queued()

        assert sorted(trace.rows) == sorted(items)
        assert trace.calls[-1] == "finalize"
        assert run.report().done == 30

    def test_megabytes_of_items_are_walked(self, any_store):
        from random import Random

        items = [Random(n).randbytes(500_000).hex() for n in range(3)]
        tasks.visit_length.map(items, shards=2, transactional=False)

        run_queued()

        assert trace.rows == [1_000_000] * 3

    @pytest.mark.django_db
    def test_more_than_can_be_unpacked_again_is_refused(self):
        with pytest.raises(PayloadTooLarge, match="Put the items into a table"):
            tasks.visit_item.map(["x" * 17_000_000] * 2)

        assert list_runs() == []

    @pytest.mark.django_db
    def test_an_item_that_its_first_try_has_changed_is_whole_at_the_second(self, world):
        tasks.spoil.map([{"left": 1}], transactional=False)

        world.run()

        assert trace.calls == [1, 1]

    @pytest.mark.django_db
    def test_a_slow_list_is_split_as_well(self, world):
        trace.pace = 0.5
        run = tasks.visit_item.map(list(range(100)), keep=True, transactional=False)

        world.run()

        assert sorted(trace.rows) == list(range(100))
        assert len(store().load_shards(run.id)) > 1

    def test_what_can_not_travel_is_named(self):
        with pytest.raises(UnsupportedValue, match=r"items\[1\]"):
            tasks.visit_item.map([1, object()])


def test_a_reversed_queryset_of_many_rows_is_walked_whole(things):
    keys = things(1201)

    tasks.visit.iterate(Thing.objects.reverse(), shards=3)
    run_queued()

    assert sorted(trace.rows) == keys


@pytest.mark.django_db
def test_keys_that_can_not_travel_are_told_by_the_run(world):
    Mark.objects.create(at=Odd("a"))
    run = tasks.visit.iterate(Mark.objects.all(), transactional=False)

    world.run()

    assert run.refresh().state is RunState.FAILED
    assert "Odd" in run.error
    assert "codec.register" in run.error


@pytest.mark.django_db
def test_what_keeps_a_plan_waiting_is_told_by_the_run(world, monkeypatch):
    run = tasks.visit.iterate(Thing.objects.all(), transactional=False)

    def plan(*args, **options):
        raise ProgrammingError("no such column")

    with monkeypatch.context() as broken:
        broken.setattr(planner, "plan", plan)
        world.step()
    assert run.refresh().state is RunState.PLANNING
    assert "no such column" in run.error
    world.run()
    assert run.refresh().state is RunState.FINISHED


MISTAKES = {
    "a misspelt keyword": ({"shard": 3}, "did you mean 'shards'"),
    "args that are none": ({"args": 1}, "args must be a list or a tuple"),
    "args that are a text": ({"args": "ab"}, "args must be a list or a tuple"),
    "kwargs that are none": ({"kwargs": [1]}, "kwargs must be a dict"),
    "a class of C": ({"finalize": dict}, "finalize must be a task or a function"),
    "options of finalize": (
        {"finalize": tasks.finalize.using(queue="slow")},
        "its queue is that of the iteration",
    ),
    "a negative margin": ({"margin": -5}, "margin must not be negative"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_the_call(name):
    policy, reason = MISTAKES[name]

    with pytest.raises((TypeError, ValueError), match=reason):
        tasks.visit.iterate(Thing.objects.all(), **policy)
    assert list_runs() == []


@pytest.mark.django_db
def test_what_is_no_list_and_no_state_is_told_at_the_call():
    with pytest.raises(TypeError, match=r"map\(\) takes an iterable"):
        tasks.visit_item.map(5)
    with pytest.raises(ValueError, match="bogus"):
        list_runs("bogus")


def test_iteration_is_refused_for_methods():
    with pytest.raises(ConfigurationError, match="is a method"):
        tasks.Greeter.greet.iterate(Thing.objects.all())
