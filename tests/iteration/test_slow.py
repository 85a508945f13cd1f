"""Slow queries, workers that are killed, and deploys that do not fit."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, planner
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.lease import SHORTEST_LEG
from cloudtask.iteration.leg import SHORTEST_LEASE
from cloudtask.iteration.sources import Page, QuerySetSource
from cloudtask.iteration.sources.pages import PAGE_FIRST, Reader
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.tasks import trace
from tests.support import clock

pytestmark = pytest.mark.django_db


class Timeout(Exception):
    sqlstate = "57014"  # as PostgreSQL's driver raises it


def timed_out():
    error = OperationalError("canceling statement due to statement timeout")
    error.__cause__ = Timeout()
    return error


class Slow:
    """A source of `count` rows. A query takes `a_row` seconds for each row that it
    looks at, and `always` besides, and is ended after `most` seconds."""

    is_filtered = True

    def __init__(self, count=5000, a_row=0.0, always=0.0, most=1e9):
        self.count, self.a_row, self.always, self.most = count, a_row, always, most
        self.time = 0.0
        self.asked = []

    def page(self, bounds, size, *, stride, keys_only):
        low = bounds.low or 0
        looked = min(size, stride or size, self.count - low)
        self.asked.append(looked)
        took = self.always + looked * self.a_row
        self.time += min(took, self.most)
        if took > self.most:
            raise timed_out()
        keys = list(range(low + 1, low + looked + 1))
        end = keys[-1] if keys else low
        return Page(keys, keys, end, low + looked == self.count, looked >= size)

    def walk(self, called=0.0):
        """The numbers of rows of the pages, each row being called for so long."""
        reader = Reader(self, clock=lambda: self.time)
        bounds, sizes = Bounds(), []
        while True:
            page = reader.read(bounds)
            if page is None:
                continue
            sizes.append(len(page.keys))
            self.time += called * len(page.keys)
            reader.learn(len(page.keys), called * len(page.keys))
            if page.is_last:
                return sizes
            bounds = Bounds(page.end)


def test_a_query_that_is_ended_looks_at_half_as_many_rows_next():
    source = Slow(a_row=0.01, most=1.5)

    sizes = source.walk()

    assert sum(sizes) == source.count
    assert max(sizes) * source.a_row <= source.most
    assert source.asked[:2] == [PAGE_FIRST, PAGE_FIRST // 2]


def test_down_to_one_row():
    source = Slow(count=5, a_row=1.4, most=1.5)

    assert source.walk() == [1] * 5


def test_one_row_that_takes_too_long_is_an_error():
    with pytest.raises(OperationalError, match="timeout"):
        Slow(a_row=2.0, most=1.5).walk()


def test_pages_learn_from_the_time_of_reading():
    sizes = Slow(a_row=0.01).walk()

    assert max(sizes[1:]) <= PAGE_FIRST  # not more than two seconds


def test_reading_that_is_slow_whatever_its_rows_keeps_large_pages():
    sizes = Slow(count=20_000, always=20.0).walk(called=0.001)

    assert min(sizes[:-1]) >= 50
    assert max(sizes) == 2000


def test_rows_of_a_slow_page_are_called_as_long_as_there_is_time(world, monkeypatch):
    """Reading takes until the time at which no page is begun."""
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 41))
    real = QuerySetSource.page

    def page(self, *args, **how):
        clock.move(6.0)  # of 15 seconds, 10 of which are left
        return real(self, *args, **how)

    monkeypatch.setattr(QuerySetSource, "page", page)
    trace.pace = 0.2
    for atomic in (None, "page", "row"):
        trace.calls.clear()
        run = tasks.visit.iterate(
            Thing.objects.all(), shards=1, keep=True, atomic=atomic, transactional=False
        )
        world.run()
        assert run.report().done == 40
        walks = store().load_shard(run.id, 0).seq + 1
        assert walks <= 3, atomic


def test_a_sparse_filter_is_walked_by_ranges_of_the_table():
    Thing.objects.bulk_create(
        Thing(id=n, size=int(n % 1000 == 0)) for n in range(1, 5001)
    )
    found = Thing.objects.filter(size=1)

    plan = planner.plan(found, 2, include_new=False)
    assert (plan.total, plan.stride is None) == (5, False)
    source, keys = QuerySetSource(found), []
    for piece in plan.pieces:
        bounds = piece.bounds
        while True:
            page = source.page(bounds, 100, stride=700)
            keys += page.keys
            if page.is_last:
                break
            bounds = Bounds(page.end, bounds.high)
    assert keys == [1000, 2000, 3000, 4000, 5000]


class TestWorkersThatAreKilled:
    def start(self, count=60):
        Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
        return tasks.act_long.iterate(
            Thing.objects.all(), shards=1, keep=True, transactional=False
        )

    def test_legs_take_half_of_the_time_that_the_killed_one_lived(self, world):
        trace.pace = 2.0
        trace.raises[16] = [Crashed()]
        run = self.start()
        seen = []
        trace.acts[17] = lambda row: seen.append(
            (store().load_run(run.id).leg_limit, run.error)
        )
        world.run()

        [(limit, error)] = seen
        assert limit == 15.0
        assert "15 s at most" in error
        assert "--timeout" in error
        assert (run.state, run.error) == (RunState.FINISHED, "")
        assert run.report().done == 60

    def test_down_to_five_seconds(self, world):
        trace.pace = 2.0
        trace.raises[1] = [Crashed()]
        run = self.start()
        while store().load_run(run.id).leg_limit is None:
            world.step()

        assert store().load_run(run.id).leg_limit == SHORTEST_LEG

    def test_legs_that_end_well_take_longer_again(self, world):
        trace.pace = 2.0
        trace.raises[1] = [Crashed()]
        run = self.start(count=100)
        limits = []
        while run.state is not RunState.FINISHED and world.step():
            limits.append(store().load_run(run.id).leg_limit)

        seen = [limit for limit in limits if limit is not None]
        assert max(seen) > 2 * SHORTEST_LEG
        assert seen == sorted(seen)

    def test_their_shards_wait_no_longer_than_checkpoints_take(self, world):
        trace.pace = 1.0
        run = self.start()
        leases = []
        for key in (10, 20):
            trace.acts[key] = lambda row: leases.append(
                store().load_shard(run.id, 0).lease_until.timestamp() - clock.now()
            )
        world.run()

        assert max(leases) <= SHORTEST_LEASE + 1


class TestDeploys:
    def test_a_callback_that_takes_the_call_no_longer_fails_no_row(
        self, world, monkeypatch
    ):
        from cloudtask import registry

        Thing.objects.bulk_create(Thing(id=n) for n in range(1, 5))
        run = tasks.visit.iterate(
            Thing.objects.all(), args=(1,), shards=1, keep=True, transactional=False
        )
        world.step()

        def without_arguments(row):
            raise AssertionError("it does not take the call")

        old = registry.find(run.task)
        new = registry.Definition(run.task, without_arguments, old.options)
        with monkeypatch.context() as deploy:
            deploy.setitem(registry._known, run.task, new)
            for _ in range(3):
                world.step()
        assert run.state is RunState.RUNNING
        assert "too many positional arguments" in run.error
        assert run.failures() == []

        world.run()
        assert (run.state, run.report().done) == (RunState.FINISHED, 4)

    def test_a_queryset_that_no_query_can_be_made_of_fails_the_run(
        self, world, monkeypatch
    ):
        from django.core.exceptions import FieldError

        Thing.objects.bulk_create(Thing(id=n) for n in range(1, 401))
        run = tasks.visit.iterate(
            Thing.objects.all(), shards=1, keep=True, transactional=False
        )
        world.step()
        with monkeypatch.context() as deploy:

            def check(self):
                raise FieldError("Cannot resolve keyword 'size' into field")

            deploy.setattr(QuerySetSource, "check", check)
            world.step()
        assert run.state is RunState.FAILED
        assert "resume(queryset)" in run.error
        assert run.failures() == []

        run.resume(Thing.objects.filter(pk__lte=3))
        world.run()
        assert (run.state, run.report().done) == (RunState.FINISHED, 3)


def test_a_key_that_is_nan_fails_the_plan():
    from cloudtask.exceptions import UnsupportedValue
    from cloudtask.iteration.bounds import text_of

    with pytest.raises(UnsupportedValue, match="NaN"):
        text_of(float("nan"))
