"""Legs that end otherwise than they should: what they leave is right, and goes on."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from django.db import DatabaseError, OperationalError, connection, connections
from django.db.transaction import on_commit

from cloudtask import PermanentTaskFailure, Retry, current, registry
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, ShardState, sweep
from cloudtask.iteration.sources import QuerySetSource
from cloudtask.runs import FailureState
from cloudtask.stores import store
from cloudtask.stores.database import DatabaseStore
from tests.durability.database import committing
from tests.iteration import tasks
from tests.iteration.models import Brittle, Effect, Thing
from tests.iteration.tasks import trace
from tests.support import clock

pytestmark = pytest.mark.django_db
COMMITTING = pytest.mark.django_db(databases=["default", "other"])


def start(task=tasks.act, count=8, **policy):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
    policy = {"shards": 1, "keep": True, "on_failure": tasks.on_failure, **policy}
    return task.iterate(Thing.objects.all(), transactional=False, **policy)


def once(action):
    """`action`, the first time that it is called."""
    left = [action]
    return lambda *args: left.pop()(*args) if left else None


def kill(row):
    raise Crashed


def kills(times):
    left = [kill] * times
    return lambda row: left.pop()(row) if left else None


def effects():
    return Counter(Effect.objects.values_list("key", flat=True))


def each_once(count):
    return Counter({str(n): 1 for n in range(1, count + 1)})


def totals(run):
    report = run.report()
    return report.done, report.failed, report.skipped


@pytest.fixture
def committed(tmp_path):
    """Commits are real."""
    with committing(tmp_path):
        yield
        connections["default"].__dict__.pop("commit", None)
        Effect.objects.all().delete()
        Thing.objects.all().delete()


class TestACommitWhoseAnswerIsLost:
    @COMMITTING
    @pytest.mark.parametrize("atomic", ["page", "row"])
    def test_rows_take_effect_once(self, world, committed, atomic):
        run = start(atomic=atomic)
        world.step()
        connection = connections["default"]
        real, lost = connection.commit, []

        def commit():
            real()
            if trace.rows and not lost:
                lost.append(True)
                if connection.vendor == "postgresql":
                    connection.connection.close()
                raise OperationalError("server closed the connection unexpectedly")

        connection.commit = commit
        world.run()

        assert lost
        assert effects() == each_once(8)
        assert totals(run) == (8, 0, 0)

    @pytest.mark.parametrize("change", ["failure", "resolved"])
    def test_a_row_that_failed_is_counted_once(self, world, change):
        trace.raises[3] = [ValueError("once")]
        run = start(tasks.visit)
        real, lost = DatabaseStore.checkpoint, []

        def checkpoint(self, shard, walked, **changes):
            written = real(self, shard, walked, **changes)
            if changes.get(change) is not None and not lost:
                lost.append(True)
                raise EnqueueUnavailable("the answer to the commit was lost")
            return written

        with patch.object(DatabaseStore, "checkpoint", checkpoint):
            world.run()

        assert lost
        assert totals(run) == (8, 0, 0)


class TestHooksOnTheCommitOfAPage:
    @COMMITTING
    @pytest.mark.parametrize("atomic", ["page", "row"])
    @pytest.mark.parametrize("error", [ConnectionError, DatabaseError])
    def test_one_that_raises_repeats_nothing(
        self, world, committed, atomic, error, caplog
    ):
        def refuse():
            raise error("away")

        trace.acts[5] = lambda row: on_commit(refuse)
        run = start(atomic=atomic)
        world.run()

        assert effects() == each_once(8)
        assert totals(run) == (8, 0, 0)
        assert f"A hook on the commit of rows of iteration {run.id}" in caplog.text


class TestRowsThatAreCalledAgain:
    def test_they_are_read_again_after_a_page_was_rolled_back(self, world):
        trace.raises[5] = [ValueError("no")] * 2
        start(tasks.enlarge, atomic="page", on_error="skip")
        Thing.objects.filter(id=8).delete()
        world.run()

        sizes = dict(Thing.objects.values_list("id", "size"))
        assert sizes == {**dict.fromkeys(range(1, 8), 1), 5: 0}

    def test_they_are_read_again_after_a_list_raised(self, world):
        trace.raises[5] = [ValueError("no")] * 2
        start(tasks.enlarge_many, batch_size=8, on_error="skip")
        world.run()

        sizes = dict(Thing.objects.values_list("id", "size"))
        assert sizes == {**dict.fromkeys(range(1, 9), 1), 5: 0}

    def test_one_that_is_gone_meanwhile_is_not_called(self, world):
        trace.acts[5] = once(lambda row: Thing.objects.filter(id=6).delete())
        trace.raises[7] = [ValueError("no")] * 2
        run = start(atomic=None, batch_size=None)
        world.run()

        # Of a page that was read before: it is in memory, and called.
        assert 6 in trace.rows
        assert totals(run) == (8, 0, 0)


class TestRowsThatCanNotBeRead:
    @pytest.fixture(autouse=True)
    def broken(self):
        yield Brittle.broken
        Brittle.broken.clear()

    def start(self, **policy):
        Thing.objects.bulk_create(Thing(id=n) for n in range(1, 301))
        policy = {"shards": 2, "keep": True, **policy}
        rows = Brittle.objects.all()
        return tasks.visit_only.iterate(rows, transactional=False, **policy)

    @pytest.mark.parametrize("atomic", [None, "page", "row"])
    def test_they_are_rows_that_fail(self, world, broken, atomic):
        broken |= {1, 77, 78, 300}
        run = self.start(on_error="skip", atomic=atomic)
        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert totals(run) == (296, 0, 4)
        assert sorted(trace.rows) == [n for n in range(1, 301) if n not in broken]
        assert {int(one.key) for one in run.failures()} == broken
        assert "77 is broken" in {one.key: one.error for one in run.failures()}["77"]

    def test_they_are_tried_again_until_they_can(self, world, broken):
        broken |= {5, 6, 200}
        run = self.start()
        world.step()
        world.step()
        world.step()
        broken.remove(6)
        broken.remove(200)
        world.run()

        assert totals(run) == (299, 1, 0)
        assert [one.key for one in run.failures()] == ["5"]

    def test_what_fails_without_a_row_is_none_of_them(self, world, monkeypatch):
        real = QuerySetSource.page

        def page(self, bounds, size, **how):
            found = real(self, bounds, size, **how)
            if not found.values and len(asked) < 3:
                asked.append(size)
                raise ValueError("of no row")
            return found

        asked = []
        monkeypatch.setattr(QuerySetSource, "page", page)
        run = start(include_new=True, on_error="skip")
        world.run()

        assert len(asked) == 3
        assert run.failures() == []
        assert totals(run) == (8, 0, 0)

    def test_lists_are_whole_again_behind_them(self, world, broken):
        broken.add(100)
        Thing.objects.bulk_create(Thing(id=n) for n in range(1, 301))
        run = tasks.visit_many.iterate(
            Brittle.objects.all(),
            batch_size=40,
            shards=1,
            on_error="skip",
            keep=True,
            transactional=False,
        )
        world.run()

        assert totals(run) == (299, 0, 1)


class TestRowsThatAskForAnotherTry:
    @pytest.mark.parametrize("on_error", ["retry", "skip", "pause", "abort"])
    @pytest.mark.parametrize("atomic", [None, "page", "row"])
    def test_they_have_not_failed(self, world, on_error, atomic):
        trace.raises[3] = [Retry(delay=100)]
        run = start(on_error=on_error, atomic=atomic, max_failures=0)
        before = clock.now()
        world.drain()

        assert run.refresh().state is RunState.FINISHED
        assert totals(run) == (8, 0, 0)
        assert trace.rows.count(3) == 2
        assert clock.now() - before >= 100

    def test_with_skip_a_row_that_is_retried_by_hand_is_tried_once(self, world):
        trace.raises[3] = [ValueError("no")] * 5
        run = start(on_error="skip")
        world.run()
        assert run.retry_failures() == 1
        world.run()

        assert trace.rows.count(3) == 2
        assert totals(run) == (7, 0, 1)


class TestAnOpenEnd:
    def test_rows_that_come_with_the_last_page_are_walked(self, world):
        for key in (1, 2, 3):
            trace.acts[key] = lambda row: Thing.objects.create(id=row.pk + 100)
        run = start(count=3, include_new=True)
        world.run()

        assert sorted(trace.rows) == [1, 2, 3, 101, 102, 103]
        assert totals(run) == (6, 0, 0)


def test_what_aborted_a_run_is_among_its_failures(world, caplog):
    trace.raises[3] = [ValueError("no way")]
    run = start(on_error="abort")
    world.run()

    assert run.refresh().state is RunState.ABORTED
    [failure] = run.failures()
    assert (failure.key, failure.state) == ("3", FailureState.FAILED)
    assert "tasks.py" in failure.traceback
    assert "no way" in run.error
    assert f"which stops iteration {run.id}" in caplog.text


def test_it_is_told_too_when_on_failure_fails(world):
    trace.raises[3] = [ValueError("no way")]
    trace.raises["on_failure"] = [ValueError("not yet")]
    run = start(on_error="abort")
    while "on_failure" not in trace.calls:
        world.step()
    assert "no way" in run.refresh().error
    assert "not yet" in run.error
    world.run()

    assert run.refresh().state is RunState.ABORTED
    assert "no way" in run.error
    assert "not yet" not in run.error


class TestErrorsOfAnyText:
    @pytest.mark.parametrize("text", ["a NUL \0 in it", "half a pair \udc80"])
    @pytest.mark.parametrize("on_error", ["retry", "skip", "pause"])
    def test_a_row_that_raises_it_is_recorded(self, any_store, world, text, on_error):
        trace.raises[3] = [ValueError(text)]
        run = start(on_error=on_error)
        world.run()
        if on_error == "pause":
            assert run.refresh().state is RunState.PAUSED
            run.resume()
            world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.rows.count(3) == (1 if on_error == "skip" else 2)


class TestRowsThatKill:
    def test_the_third_death_names_the_row(self, world):
        trace.acts[5] = kill
        run = start()
        world.run()

        [failure] = run.failures()
        assert (failure.key, failure.state) == ("5", FailureState.KILLED)
        assert trace.rows.count(5) == 3
        assert totals(run) == (7, 1, 0)

    @pytest.mark.parametrize("atomic", [None, "page", "row"])
    def test_rows_before_the_killer_do_not_clear_it(self, world, atomic):
        trace.acts[7] = kill
        run = start(atomic=atomic)
        world.run()

        # Of a leg that takes whole pages the first death has another cursor.
        assert trace.rows.count(7) == (4 if atomic == "page" else 3)
        assert [one.key for one in run.failures()] == ["7"]
        assert totals(run) == (7, 1, 0)
        if atomic:
            assert set(effects()) == set(each_once(8)) - {"7"}

    def test_far_behind_what_killed_a_death_is_the_first_again(self, world):
        trace.pace = 0.5
        trace.acts[2] = kills(2)
        trace.acts[30] = kills(1)
        run = start(count=40)
        world.run()

        assert run.failures() == []
        assert totals(run) == (40, 0, 0)

    def test_a_leg_that_failed_has_not_died(self, world):
        real, refused = QuerySetSource.page, []

        def page(self, bounds, size, **how):
            if len(refused) < 2:
                refused.append(True)
                raise OperationalError("the database is unavailable")
            return real(self, bounds, size, **how)

        trace.acts[7] = kills(1)
        with patch.object(QuerySetSource, "page", page):
            run = start(count=10)
            world.run()

        assert run.failures() == []
        assert totals(run) == (10, 0, 0)

    def test_a_row_with_one_attempt_that_raises_has_failed(self, world):
        trace.raises[2] = [ValueError("no")]
        run = start(tasks.act.using(max_attempts=1))
        world.run()

        [failure] = run.failures()
        assert failure.state is FailureState.FAILED
        assert "ValueError: no" in failure.error


class TestRowsThatTakeLong:
    def test_one_beyond_the_sweepers_patience_has_no_second_copy(self, world):
        """20 of its 30 minutes, with the relay each minute."""
        at_once = []

        def wait(row):
            at_once.append(row.pk)
            for _ in range(20):
                clock.move(60)
                assert sweep() == 0

        trace.acts[2] = wait
        run = start(tasks.act_long)
        world.run()

        assert at_once == [2]
        assert totals(run) == (8, 0, 0)

    def test_a_run_is_at_work_until_the_deadline_of_its_row(self, any_store, world):
        answers = []

        def wait(row):
            clock.move(1200)
            answers.append(store().is_at_work(run.id))
            [shard] = store().load_shards(run.id)
            answers.append(store().bump_shard(shard))
            clock.move(700)
            answers.append(store().is_at_work(run.id))

        trace.acts[2] = wait
        run = start(tasks.act_long)
        world.run()

        assert answers == [True, None, False]

    def test_slow_rows_in_transactions_begin_one_by_one(self, world):
        """Rows of a second; a leg has five."""
        trace.pace = 1.0
        run = start(atomic="page", count=12)
        began = []
        real = world.deliver

        def deliver(entry, retries):
            began.append(clock.now())
            real(entry, retries)
            assert clock.now() - began[-1] < tasks.TIMEOUT

        with patch.object(world, "deliver", deliver):
            world.run()

        assert totals(run) == (12, 0, 0)
        assert effects() == each_once(12)


def test_a_list_that_raises_and_is_gone_is_skipped_and_told(world, caplog):
    def leave(row):
        Thing.objects.update(size=1)
        raise ValueError("gone with its rows")

    trace.acts[2] = leave
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 9))
    run = tasks.act_many.iterate(
        Thing.objects.filter(size=0),
        batch_size=4,
        shards=1,
        keep=True,
        transactional=False,
    )
    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert totals(run) == (4, 0, 4)
    assert "gone with its rows" in caplog.text


def test_failed_rows_are_retried_from_inside_a_page(world):
    trace.raises[2] = [PermanentTaskFailure("no")]
    asked = []
    trace.acts[5] = once(lambda row: asked.append(current().iteration.retry_failures()))
    run = start(atomic="page")
    world.run()

    assert asked == [1]
    assert totals(run) == (8, 0, 0)
    assert effects() == each_once(8)


class TestACallbackThatStopsItsOwnRun:
    @pytest.mark.parametrize("atomic", [None, "page", "row"])
    @pytest.mark.parametrize("what", ["pause", "cancel"])
    def test_it_is_stopped_behind_the_row(self, world, atomic, what):
        trace.acts[3] = lambda row: getattr(current().iteration, what)()
        run = start(atomic=atomic)
        world.run()

        ends = {"pause": RunState.PAUSED, "cancel": RunState.CANCELLED}
        assert run.refresh().state is ends[what]
        assert trace.rows.count(3) == 1
        assert ("on_failure" in trace.calls) == (what == "cancel")
        if what == "pause":
            run.resume()
            world.run()
            assert Counter(trace.rows) == Counter(range(1, 9))

    def test_a_last_try_that_returned_meanwhile_has_not_failed(self, world):
        trace.raises[2] = [ValueError("once")]
        run = start(tasks.act.using(max_attempts=2))
        trace.acts[2] = lambda row: current().iteration.pause()
        world.run()
        assert run.refresh().state is RunState.PAUSED
        run.resume()
        world.run()

        assert totals(run) == (8, 0, 0)
        assert trace.rows.count(2) == 2


class TestTasksThatComeLate:
    @contextmanager
    def unknown(self, monkeypatch, path):
        with monkeypatch.context() as deploy:
            deploy.setattr(registry, "_known", dict(registry._known))
            deploy.setattr(registry, "finders", [])
            registry._known.pop(path)
            deploy.setattr(registry, "_import_module_of", lambda *args: None)
            yield

    def for_hours(self, world, hours):
        for _ in range(hours * 4):
            sweep()
            for _ in range(3):
                clock.move(5 * 60)
                world.collect()
                due = [one for one in world.waiting if one[0] <= clock.now()]
                for one in due:
                    world.waiting.remove(one)
                    world.deliver(one[2], one[3])

    def test_they_do_not_multiply_while_the_task_is_unknown(self, world, monkeypatch):
        run = start(shards=2)
        world.step()
        with self.unknown(monkeypatch, run.task):
            self.for_hours(world, 3)
            assert len(world.waiting) <= 4
        world.run()

        assert totals(run) == (8, 0, 0)

    def test_they_end_with_a_run_that_was_cancelled(self, world, monkeypatch):
        run = start(shards=2)
        world.step()
        run.cancel()
        with self.unknown(monkeypatch, run.task):
            self.for_hours(world, 1)

        assert world.waiting == []
        assert run.refresh().state is RunState.CANCELLED

    def test_an_old_number_is_answered_whoever_is_at_work(self, world):
        run = start()
        world.step()
        world.collect()
        first = world.waiting[0]
        [shard] = store().load_shards(run.id)
        store().bump_shard(shard)
        trace.acts[2] = once(lambda row: world.deliver(first[2], 0))
        sweep()
        world.deliver(first[2], 0)

        # The repair sends the number that is the shard's now, and that one walks.
        world.run()
        assert totals(run) == (8, 0, 0)
        assert store().load_shards(run.id)[0].state is ShardState.DONE


def test_one_query_tells_which_rows_are_due(world):
    from django.test.utils import CaptureQueriesContext

    trace.raises[2] = [Retry(delay=3600)]
    run = start(tasks.visit)
    world.step()
    world.step()
    with CaptureQueriesContext(connection) as queries:
        due, seconds = store().waiting_failures(run.id, 0, limit=5)

    assert (due, 0.0 < seconds <= 3600.0) == ([], True)
    assert sum("cloudtask_iterationfailure" in one["sql"] for one in queries) == 1
