"""Ranges are disjoint and cover: for any keys, any filter, deletes, inserts, splits,
and however often a planner has to stop and go on."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from datetime import date
from itertools import count, pairwise

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtask import PermanentTaskFailure, failpoints
from cloudtask.iteration import RunState, planner, planning
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner import MAX_SHARDS, estimates, rest_of
from cloudtask.iteration.planner import pieces as index_walk
from cloudtask.iteration.sources import ListSource, QuerySetSource
from cloudtask.models import IterationRun
from cloudtask.stores import store
from cloudtask.testing import run_queued
from tests.iteration import tasks
from tests.iteration.models import Booking, Seat, Thing, Ticket, Word
from tests.iteration.tasks import trace
from tests.testapp.models import Book, Novel

pytestmark = pytest.mark.django_db
properties = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def uuid7(milliseconds, tail):
    """A time-ordered UUID."""
    value = (milliseconds & (2**48 - 1)) << 80 | 7 << 76 | 2 << 62 | tail & (2**62 - 1)
    return uuid.UUID(int=value)


LETTERS = "aAbBzZäÄöéßœ0 _-"
integers = st.integers(-(2**62), 2**62) | st.integers(-5, 5)
KINDS = {
    "integers": (Thing, "id", integers),
    "UUIDv4": (Ticket, "id", st.uuids(version=4)),
    "UUIDv7": (
        Ticket,
        "id",
        st.builds(uuid7, st.integers(0, 2**20), st.integers(0, 2**62)),
    ),
    "strings": (Word, "text", st.text(LETTERS, max_size=6)),
    "pairs": (Seat, ("row", "number"), st.tuples(st.integers(0, 3), integers)),
}


def make(model, field, keys):
    """Rows of these keys; the database says which of them are equal to it."""
    for key in keys:
        values = (
            dict(zip(field, key, strict=True)) if type(key) is tuple else {field: key}
        )
        if "number" in values:
            values["number"] %= 2**31 - 1
        if not model.objects.filter(**values).exists():
            model.objects.create(**values)
    return list(model.objects.order_by("pk").values_list("pk", flat=True))


def rows_of(plan, queryset):
    return rows_in(plan.pieces, queryset)


def rows_in(pieces, queryset):
    return [row.pk for piece in pieces for row in piece.bounds.of(queryset)]


def in_parts(queryset, shards, is_over, include_new=False):
    """The pieces and the total of a plan whose parts are made one after the other."""
    pieces, total, rest = [], 0, None
    while True:
        plan = planner.plan(
            queryset, shards, include_new=include_new, rest=rest, is_over=is_over
        )
        pieces += plan.pieces
        total += plan.total
        if plan.rest is None:
            return pieces, total
        rest = rest_of(plan.rest.as_text())


@pytest.mark.parametrize("kind", KINDS)
@properties
@given(data=st.data())
def test_pieces_hold_each_row_once(kind, data, monkeypatch):
    model, field, strategy = KINDS[kind]
    keys = data.draw(st.lists(strategy, max_size=40, unique=True))
    shards = data.draw(st.integers(1, 9))
    small = data.draw(st.sampled_from([0, 5, 500]))
    monkeypatch.setattr(planner, "SMALL", small)
    with transaction.atomic():
        there = make(model, field, keys)
        rows = model.objects.all()  # type: ignore[attr-defined]

        plan = planner.plan(rows, shards, include_new=data.draw(st.booleans()))

        assert rows_of(plan, rows) == there
        assert len(plan.pieces) <= shards
        assert plan.total == len(there)
        for one, other in pairwise(plan.pieces):
            assert one.bounds.high == other.bounds.low
        transaction.set_rollback(True)


@pytest.mark.parametrize("kind", KINDS)
@properties
@given(data=st.data())
def test_pieces_of_all_parts_hold_each_row_once(kind, data, monkeypatch):
    model, field, strategy = KINDS[kind]
    keys = data.draw(st.lists(strategy, max_size=40, unique=True))
    shards = data.draw(st.integers(1, 9))
    monkeypatch.setattr(planner, "SMALL", 0)
    # Few rows are counted, and shards that can't know how many there are.
    monkeypatch.setattr(index_walk, "COUNTED", data.draw(st.sampled_from([4, 1000])))
    stops = data.draw(st.lists(st.booleans(), min_size=1))
    with transaction.atomic():
        there = make(model, field, keys)
        rows = model.objects.all()  # type: ignore[attr-defined]
        is_over = itertools.cycle(stops).__next__

        pieces, total = in_parts(rows, shards, is_over, data.draw(st.booleans()))

        assert rows_in(pieces, rows) == there
        assert len(pieces) <= shards
        if not any(stops):
            assert total == len(there)
            assert [piece.expected for piece in pieces] == [
                piece.bounds.of(rows).count() for piece in pieces
            ]
        for one, other in pairwise(pieces):
            assert one.bounds.high == other.bounds.low
        transaction.set_rollback(True)


@pytest.mark.parametrize("kind", KINDS)
@properties
@given(data=st.data())
def test_pages_and_splits_hold_each_row_once(kind, data):
    model, field, strategy = KINDS[kind]
    keys = data.draw(st.lists(strategy, max_size=30, unique=True))
    size = data.draw(st.integers(1, 7))
    with transaction.atomic():
        there = make(model, field, keys)
        source = QuerySetSource(model.objects.all())  # type: ignore[attr-defined]
        pieces, seen = [Bounds()], []
        while pieces:
            bounds = pieces.pop()
            half = source.key_after(bounds, data.draw(st.integers(1, 20)))
            if half is not None and half != bounds.high and data.draw(st.booleans()):
                pieces += [Bounds(bounds.low, half), Bounds(half, bounds.high)]
                continue
            while (page := source.page(bounds, size)).values:
                seen += page.keys
                bounds = Bounds(page.keys[-1], bounds.high)

        assert Counter(seen) == Counter(there)
        transaction.set_rollback(True)


@properties
@given(data=st.data())
def test_rows_that_stay_are_walked_whatever_comes_and_goes(data):
    keys = data.draw(
        st.lists(st.integers(0, 200), min_size=1, max_size=40, unique=True)
    )
    with transaction.atomic():
        make(Thing, "id", keys)
        source = QuerySetSource(Thing.objects.all())
        plan = source.plan(data.draw(st.integers(1, 5)), include_new=False)
        going = set(data.draw(st.lists(st.sampled_from(keys), unique=True)))
        coming = set(data.draw(st.lists(st.integers(-50, 300)))) - set(keys)
        Thing.objects.filter(id__in=going).delete()
        Thing.objects.bulk_create(Thing(id=key) for key in coming)

        seen = rows_of(plan, Thing.objects.all())

        assert len(set(seen)) == len(seen)
        assert set(keys) - going <= set(seen)
        assert max(seen, default=0) <= max(keys)
        transaction.set_rollback(True)


@properties
@given(count=st.integers(0, 90), shards=st.integers(1, 12), size=st.integers(1, 9))
def test_places_of_a_list_are_walked_once(count, shards, size):
    from cloudtask import codec

    source = ListSource(codec.dumps(list(range(count))))
    seen = []
    for piece in source.plan(shards, include_new=False).pieces:
        bounds = piece.bounds
        while (page := source.page(bounds, size)).values:
            seen += page.values
            bounds = Bounds(page.keys[-1], bounds.high)

    assert seen == list(range(count))


def test_a_skewed_table_is_cut_into_even_pieces():
    keys = [*range(1, 3001), *range(10**9, 10**9 + 30)]
    Thing.objects.bulk_create(Thing(id=key) for key in keys)

    plan = planner.plan(Thing.objects.all(), 8, include_new=False)

    sizes = [piece.bounds.of(Thing.objects.all()).count() for piece in plan.pieces]
    assert sum(sizes) == len(keys)
    assert len(sizes) == 8
    assert max(sizes) < 2 * len(keys) / 8


def test_a_filter_is_planned_for():
    Thing.objects.bulk_create(Thing(id=n, size=n % 3) for n in range(1, 3001))
    rows = Thing.objects.filter(size=0)

    plan = planner.plan(rows, 4, include_new=False)

    assert rows_of(plan, rows) == list(range(3, 3001, 3))


def test_as_many_shards_as_the_rows_ask_for():
    assert planner.shards_for(0) == planner.shards_for(1000) == 1
    assert planner.shards_for(1001) == 2
    assert planner.shards_for(10_000) == planner.shards_for(160_000) == 8
    assert planner.shards_for(1_000_000) == 50
    assert planner.shards_for(10**9) == MAX_SHARDS


def test_a_planner_that_takes_long_hands_over_half_of_its_shards(monkeypatch):
    monkeypatch.setattr(estimates, "by_sample", lambda *_: None)
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 1001))
    three = itertools.cycle([False, False, True]).__next__

    first = planner.plan(Thing.objects.all(), 8, include_new=False, is_over=three)

    assert [piece.bounds.high for piece in first.pieces] == [125, 250, 375]
    assert (first.total, first.rest.shards) == (375, 5)
    pieces, total = in_parts(Thing.objects.all(), 8, three)
    assert [piece.expected for piece in pieces] == [125, 125, 125, 250, 125, 125, 125]
    assert total == 1000


def test_a_slow_table_is_not_counted(monkeypatch):
    monkeypatch.setattr(estimates, "by_sample", lambda *_: None)
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 2001))
    ticks = count(0.0, planner.SLOW / 2)

    with CaptureQueriesContext(connection) as queries:
        plan = planner.plan(
            Thing.objects.filter(size=0),
            3,
            include_new=False,
            clock=lambda: next(ticks),
        )

    assert sum(piece.expected for piece in plan.pieces) == 2000
    counts = [one["sql"] for one in queries if "COUNT" in one["sql"]]
    assert len(counts) == 1
    assert "> 2000" in counts[0]


def test_a_table_of_unknown_size_is_cut_evenly(monkeypatch):
    monkeypatch.setattr(index_walk, "COUNTED", 100)
    Thing.objects.bulk_create(Thing(id=n * n) for n in range(1, 3001))
    last = 3000 * 3000

    plan = index_walk.begin(Thing.objects.all(), 7, last, False, bool, False)

    sizes = [piece.bounds.of(Thing.objects.all()).count() for piece in plan.pieces]
    assert sizes == [piece.expected for piece in plan.pieces]
    assert len(sizes) == 7
    assert max(sizes) < 1.5 * 3000 / 7


def test_the_parts_of_a_plan_start_at_once_and_end_once(world, monkeypatch):
    run = start_in_parts(monkeypatch)

    world.step()
    part = store().load_run(run.id)
    assert (part.state, part.is_planned, part.part) == (RunState.RUNNING, False, 1)
    assert run.progress().total == 5
    while not trace.rows:
        world.step()
    assert not store().load_run(run.id).is_planned
    world.drain()

    assert Counter(trace.rows) == Counter(range(1, 41))
    assert trace.calls.count("finalize") == 1
    assert run.refresh().state is RunState.FINISHED
    assert run.progress().total == 40
    assert 2 < store().load_run(run.id).part <= 8


def test_a_planner_whose_part_was_made_meanwhile_adds_nothing(world, monkeypatch):
    run = start_in_parts(monkeypatch)
    before = failpoints.at("plan.before_plan", once(world.again))

    with before:
        world.run()

    assert Counter(trace.rows) == Counter(range(1, 41))
    count = len(store().load_shards(run.id))
    highs = [store().load_shard(run.id, index).high for index in range(count)]
    assert len(set(highs)) == len(highs)


@pytest.mark.parametrize("moment", ["plan.before_plan", "plan.after_plan"])
def test_a_run_that_is_paused_between_parts_goes_on(world, monkeypatch, moment):
    run = start_in_parts(monkeypatch)
    world.step()
    with failpoints.at(moment, once(run.pause)):
        world.run()
    assert run.refresh().state is RunState.PAUSED
    assert trace.calls.count("finalize") == 0

    run.resume()
    world.run()

    assert Counter(trace.rows) == Counter(range(1, 41))
    assert run.refresh().state is RunState.FINISHED


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.FAILED])
def test_a_run_that_an_earlier_version_has_planned_goes_on(world, state):
    """It did not count parts."""
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 21))
    run = tasks.visit.iterate(
        Thing.objects.all(), shards=2, keep=True, transactional=False
    )
    world.step()
    IterationRun.objects.update(part=0, state=state)
    world.drain()

    run.resume()
    world.run()

    assert Counter(trace.rows) == Counter(range(1, 21))
    assert run.refresh().state is RunState.FINISHED


def test_a_plan_that_is_stored_while_a_run_is_resumed_starts(world):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 21))
    run = tasks.visit.iterate(
        Thing.objects.all(), shards=2, keep=True, transactional=False
    )
    world.step()
    IterationRun.objects.update(state=RunState.PLANNING)
    world.purge()

    world.run()

    assert Counter(trace.rows) == Counter(range(1, 21))
    assert run.refresh().state is RunState.FINISHED


def test_a_share_of_failures_waits_for_the_whole_plan(world, monkeypatch):
    slowly(monkeypatch)
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 121))
    trace.raises[1] = [PermanentTaskFailure("no")]
    run = tasks.visit.iterate(
        Thing.objects.all(),
        shards=12,
        max_failures=0.01,
        keep=True,
        transactional=False,
    )
    world.run()

    assert run.refresh().state is RunState.FINISHED


def test_a_run_whose_next_part_was_purged_is_swept(world, monkeypatch):
    run = start_in_parts(monkeypatch)
    world.step()
    world.purge()

    world.run()

    assert Counter(trace.rows) == Counter(range(1, 41))
    assert run.refresh().state is RunState.FINISHED


def start_in_parts(monkeypatch):
    """A run over forty things, whose plan comes in parts."""
    slowly(monkeypatch)
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 41))
    return tasks.visit.iterate(
        Thing.objects.all(),
        finalize=tasks.finalize,
        shards=8,
        keep=True,
        transactional=False,
    )


def slowly(monkeypatch):
    """Let each part of a plan take longer than it may."""
    monkeypatch.setattr(planner, "SMALL", 0)
    monkeypatch.setattr(planning, "PART_TIME", -1.0)
    monkeypatch.setattr(estimates, "by_sample", lambda *_: None)


def once(action):
    """`action`, the first time that it is called."""
    left = [action]
    return lambda: left.pop()() if left else None


def test_a_view_is_walked(world):
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL samples tables")
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 1001))
    with connection.cursor() as cursor:
        cursor.execute("CREATE VIEW a_view AS SELECT * FROM iteration_thing")

    assert estimates.size_of(connection, "a_view") is None
    assert estimates.size_of(connection, "iteration_thing") is not None


def test_keys_of_several_columns_are_looked_up_in_their_index():
    Seat.objects.bulk_create(Seat(row=n % 3, number=n) for n in range(6000))
    page = Bounds((2, 5000), (2, 5500)).of(Seat.objects.all())[:50]

    assert [seat.number for seat in page[:3]] == [5003, 5006, 5009]
    plan = page.explain()
    if connection.vendor == "sqlite":
        assert "((row,number)>(?,?) AND (row,number)<(?,?))" in plan
    elif connection.vendor == "mysql":
        assert "range" in plan
    else:
        assert "Index Cond: (ROW(" in plan or "Seq Scan" not in plan


@pytest.mark.parametrize("on_error", ["retry", "skip"])
def test_keys_with_a_foreign_key_are_walked(world, on_error):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 301))
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    Booking.objects.bulk_create(
        Booking(thing_id=n, day=day) for n in range(1, 301) for day in days
    )
    bad = (150, days[1])
    trace.raises[bad] = [ValueError("no")] * 3
    run = tasks.visit.iterate(
        Booking.objects.all(),
        shards=4,
        atomic="page",
        on_error=on_error,
        keep=True,
        transactional=False,
    )

    world.run()

    assert set(trace.rows) == {(n, day) for n in range(1, 301) for day in days}
    assert run.report().done == (600 if on_error == "retry" else 599)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_keys_are_walked(kind):
    model, field, _ = KINDS[kind]
    some = {
        "integers": [-3, 0, 5, 2**40],
        "UUIDv4": [uuid.uuid4() for _ in range(4)],
        "UUIDv7": [uuid7(n, n) for n in range(4)],
        "strings": ["", "a", "B", "é"],
        "pairs": [(0, 0), (0, 1), (1, 0)],
    }[kind]
    there = make(model, field, some)

    tasks.visit_only.iterate(model.objects.all(), shards=3)  # type: ignore[attr-defined]
    run_queued()

    assert sorted(map(str, trace.rows)) == sorted(map(str, there))


def test_an_inherited_model_is_planned_by_its_own_key():
    for n in range(600):
        (Novel if n % 2 else Book).objects.create(title=str(n), pages=n)

    plan = planner.plan(Novel.objects.all(), 4, include_new=False)

    assert rows_of(plan, Novel.objects.all()) == list(
        Novel.objects.order_by("pk").values_list("pk", flat=True)
    )
