"""Pause, resume and cancel, at every moment; the sweeper; progress."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import contextmanager, suppress

import pytest
from django.core.management import call_command
from django.db import ProgrammingError

from cloudtask import Retry
from cloudtask.exceptions import CloudTaskError, EnqueueUnavailable
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, ShardState, get, sweep
from cloudtask.iteration import list as list_runs
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.matrix import POINTS
from tests.iteration.models import Thing
from tests.iteration.starting import at_point, start
from tests.iteration.tasks import trace
from tests.iteration.world import CREATE_TASK, STAGES, fault_at
from tests.support import clock

pytestmark = pytest.mark.django_db
# Faults at the tasks that a caller sends.
SENDING = [
    ("step.before_send", "crash"),
    ("step.after_send", "crash"),
    *((CREATE_TASK, stage) for stage in STAGES),
]


def quietly(action):
    """Too late is no error here."""

    def act():
        with suppress(CloudTaskError):
            action()

    return act


@pytest.mark.exhaustive(sample=5)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("passage", [1, 2])
class TestAtEveryMoment:
    def test_a_pause_and_a_resume_lose_and_repeat_nothing(self, world, point, passage):
        run = start()
        trace.pace = 1.5
        with at_point(point, passage, quietly(run.pause)):
            world.run()
        if run.refresh().state is RunState.PAUSED:
            rows = len(trace.rows)
            world.run()
            assert len(trace.rows) == rows
            run.resume()
            world.drain()

        assert Counter(trace.rows) == Counter(range(1, 13))
        assert trace.calls.count("finalize") == 1
        assert run.refresh().state is RunState.FINISHED

    def test_a_pause_that_is_resumed_at_once_stalls_nothing(
        self, world, point, passage
    ):
        run = start()
        trace.pace = 1.5

        def pause_and_resume():
            run.pause()
            run.resume()

        with at_point(point, passage, quietly(pause_and_resume)):
            world.drain()  # without the sweeper

        assert Counter(trace.rows) == Counter(range(1, 13))
        assert trace.calls.count("finalize") == 1

    def test_what_is_cancelled_ends_once_and_after_its_rows(
        self, world, point, passage
    ):
        run = start()
        trace.pace = 1.5
        with at_point(point, passage, quietly(run.cancel)):
            world.drain()

        run.refresh()
        last = {RunState.CANCELLED: "on_failure", RunState.FINISHED: "finalize"}
        assert trace.calls.count(last[run.state]) == 1
        assert trace.calls[-1] == last[run.state]
        assert set(Counter(trace.rows).values()) <= {1}


class TestResume:
    def test_a_leg_that_died_while_the_run_was_paused_is_made_up_for(self, world):
        run = start(4, shards=1)
        with fault_at(world, "shard.before_complete", 1, "crash"):
            world.step()
            world.step()
        run.pause()
        world.drain()  # its redelivery is used up
        run.resume()  # while the lease of the dead is live

        world.drain()

        assert run.refresh().state is RunState.FINISHED

    def test_a_pause_under_the_planner_that_is_resumed_before_the_plan(self, world):
        run = start()

        def pause_and_resume():
            run.pause()
            run.resume()

        with at_point("plan.before_plan", 1, pause_and_resume):
            world.drain()

        assert Counter(trace.rows) == Counter(range(1, 13))

    def test_a_run_that_is_running_can_not_be_resumed(self, world):
        with pytest.raises(CloudTaskError, match="paused or has failed"):
            start().resume()

    def test_a_list_takes_no_queryset(self, world):
        run = tasks.visit_item.map([1, 2], transactional=False)
        run.pause()

        with pytest.raises(CloudTaskError, match="walks a list"):
            run.resume(Thing.objects.all())


@pytest.fixture(params=SENDING, ids=", ".join)
def killing(request, world):
    """A block with a fault at a task that it sends. After it the queue is delivered,
    without the sweeper."""

    @contextmanager
    def killed(passage):
        point, fault = request.param
        with (
            fault_at(world, point, passage, fault),
            suppress(Crashed, EnqueueUnavailable),
        ):
            yield
        world.drain()

    return killed


@pytest.mark.parametrize("passage", [1, 2])
class TestCallersThatAreKilled:
    """What they changed has its next step at once, without the sweeper."""

    @pytest.mark.parametrize("steps", [0, 2])
    def test_a_run_is_cancelled_or_goes_on(self, world, killing, passage, steps):
        run = start()
        for _ in range(steps):
            world.step()

        with killing(passage):
            run.cancel()

        last = {RunState.CANCELLED: "on_failure", RunState.FINISHED: "finalize"}
        assert trace.calls[-1] == last[run.refresh().state]
        assert run.report().finished is not None

    @pytest.mark.parametrize("steps", [0, 1, 2])
    def test_a_run_is_resumed_or_paused(self, world, killing, passage, steps):
        run = start()
        for _ in range(steps):
            world.step()
        run.pause()
        world.drain()

        with killing(passage):
            run.resume()

        if run.refresh().state is RunState.PAUSED:
            run.resume()
            world.drain()
        assert run.refresh().state is RunState.FINISHED
        assert Counter(trace.rows) == Counter(range(1, 13))


def test_a_run_that_was_to_begin_later_does_not_begin_with_a_cancel_that_was_killed(
    world,
):
    run = start(4, tasks.visit.using(countdown=3600))
    with (
        fault_at(world, "step.after_send", 1, "crash"),
        pytest.raises(Crashed),
    ):
        run.cancel()

    assert world.step()
    assert run.refresh().state is RunState.WAITING
    assert len(world.waiting) == 1
    world.drain()
    assert run.refresh().state is RunState.FINISHED


class TestTheSweeper:
    @pytest.mark.parametrize("steps", range(8))
    def test_a_purged_queue_is_made_up_for(self, world, steps):
        run = start()
        trace.pace = 1.5
        for _ in range(steps):
            world.step()
        world.purge()  # the service remembers the names

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert Counter(trace.rows) == Counter(range(1, 13))
        assert trace.calls.count("finalize") == 1

    def test_living_legs_are_left_alone(self, world):
        start()
        trace.pace = 1.5
        made = []
        with at_point("shard.after_checkpoint", 2, lambda: made.append(sweep())):
            world.drain()

        assert made == [0]

    def test_a_run_that_is_not_due_is_left_alone(self, world):
        Thing.objects.create(id=1)
        options = tasks.visit.using(countdown=7200)
        options.iterate(Thing.objects.all(), transactional=False)
        world.collect()
        world.later()
        assert sweep() == 0

        clock.move(7200)
        assert sweep() == 1

    def test_a_shard_whose_row_waits_is_not_lost(self, world):
        trace.raises[1] = [Retry(delay=7200)]
        start(1, shards=1)
        world.step()
        world.step()
        world.later()

        assert sweep() == 0

    def test_lost_shards_are_found_behind_shards_at_rest(self, world):
        trace.raises[1] = [Retry(delay=7200)]
        start(4, shards=2)
        world.step()
        world.step()
        world.purge()
        world.later()

        assert sweep(limit=1) == 1


class TestPrune:
    @pytest.mark.django_db(databases=["default", "other"])
    def test_what_ended_long_ago_is_deleted(self, world):
        ended, going = start(2), tasks.visit_item.map([1], transactional=False)
        going.pause()
        world.run()

        call_command("cloudtask_prune", stdout=io.StringIO())
        assert {run.id for run in list_runs()} == {ended.id, going.id}
        clock.move(31 * 86_400)
        out = io.StringIO()
        call_command("cloudtask_prune", stdout=out)

        assert "1 iterations" in out.getvalue()
        assert [run.id for run in list_runs()] == [going.id]


class TestWhatARunSays:
    def test_it_waits_for_a_task_that_this_version_does_not_know(
        self, world, monkeypatch
    ):
        from cloudtask import registry

        run = start()
        path = run.task
        with monkeypatch.context() as deploy:
            deploy.setattr(registry, "_known", dict(registry._known))
            deploy.setattr(registry, "finders", [])
            registry._known.pop(path)
            deploy.setattr(registry, "_import_module_of", lambda *args: None)
            for _ in range(6):
                world.step()
            assert run.refresh().state is RunState.RUNNING
            assert f"No task '{path}'" in run.error
            assert trace.rows == []

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert run.error == ""
        assert Counter(trace.rows) == Counter(range(1, 13))

    def test_it_says_why_a_shard_can_not_go_on(self, world, monkeypatch):
        from cloudtask.iteration.sources import QuerySetSource

        run = start()
        world.step()
        with monkeypatch.context() as broken:

            def page(*args, **how):
                raise ProgrammingError("no such column")

            broken.setattr(QuerySetSource, "page", page)
            for _ in range(4):
                world.step()
        assert "no such column" in run.refresh().error

        world.run()

        assert (run.refresh().state, run.error) == (RunState.FINISHED, "")
        assert run.failures() == []


class TestFinalize:
    def test_one_that_raises_is_tried_again(self, world):
        trace.raises["finalize"] = [ValueError("no")]
        run = start()

        world.run()

        assert trace.calls.count("finalize") == 2
        assert (run.refresh().state, run.error) == (RunState.FINISHED, "")

    def test_one_that_gives_up_fails_the_run_and_can_be_resumed(self, world):
        run = start(finalize=tasks.finalize_twice)

        world.run()

        assert run.refresh().state is RunState.FAILED
        assert "ValueError: no" in run.error
        assert trace.calls.count("finalize") == 2
        run.resume()
        world.run()
        assert trace.calls.count("finalize") == 4

    def test_it_may_be_a_plain_function(self, world):
        run = start(finalize=tasks.plain_finalize)

        world.run()

        assert trace.calls.count("finalize") == 1
        assert run.refresh().state is RunState.FINISHED

    def test_it_can_read_the_report(self, world):
        start()

        world.run()

        assert trace.report.done == 12
        assert trace.report.started is not None
        assert [shard.done for shard in trace.report.shards] == [6, 6]

    def test_a_late_delivery_of_a_run_that_is_gone_is_settled(self, world):
        run = start(keep=False)
        world.run()
        delivered = list(world.delivered)
        calls = list(trace.calls)

        for entry, retries in delivered:
            world.deliver(entry, retries)

        assert trace.calls == calls
        assert world.next() is None
        assert run.refresh().state is RunState.FINISHED

    def test_killed_before_the_run_is_summarized(self, world):
        run = start(keep=False)
        with fault_at(world, "finalize.after_settle", 1, "crash"):
            world.run()

        assert store().load_run(run.id).is_summary


class TestProgress:
    def test_it_grows_with_the_rows_and_ends_whole(self, world):
        run = start(12)
        trace.pace = 1.5
        seen = [run.progress().fraction]
        while world.step():
            seen.append(run.progress().fraction)

        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (0.0, 1.0)
        assert run.progress().done == run.progress().total == 12

    def test_rate_and_remaining_follow_from_the_time_that_passed(self, world):
        run = start(12, shards=1)
        trace.pace = 1.0
        world.step()
        world.step()

        progress = run.progress()

        assert 0 < progress.done < 12
        assert progress.rate == pytest.approx(1.0, rel=0.3)
        assert progress.remaining is not None
        assert progress.remaining.total_seconds() == pytest.approx(
            12 - progress.done, abs=4
        )

    def test_a_run_that_is_gone_is_finished(self, world):
        run = start(keep=False)
        world.run()

        assert run.wait(progress_bar=True, file=io.StringIO()) is run
        assert run.progress().fraction == 1.0

    def test_waiting_has_an_end(self, world):
        with pytest.raises(TimeoutError, match="still waiting"):
            start().wait(timeout=0)

    def test_a_finished_run_draws_its_bar(self, world):
        run = start()
        world.run()
        bar = io.StringIO()

        run.wait(progress_bar=True, file=bar)

        assert "12 of 12 (100%)" in bar.getvalue()

    def test_runs_can_be_found_again(self, world):
        run = start()

        assert get(run.id) == run
        assert list_runs(RunState.WAITING) == [run]
        assert list_runs(RunState.FINISHED) == []
        with pytest.raises(LookupError):
            get("nobody")


def test_a_leg_ends_in_time_and_half_of_the_rest_goes_to_a_new_shard(world, things):
    things(400)
    trace.pace = 0.5
    run = tasks.visit.iterate(Thing.objects.all(), keep=True, transactional=False)

    world.run()

    shards = store().load_shards(run.id)
    assert len(shards) > 1
    assert {shard.state for shard in shards} == {ShardState.DONE}
    assert Counter(trace.rows) == Counter(range(1, 401))


def test_as_many_shards_as_were_asked_for_are_at_work_at_most(world, things):
    things(100)
    trace.pace = 0.5
    run = tasks.visit.iterate(
        Thing.objects.all(), shards=1, keep=True, transactional=False
    )

    world.run()

    assert len(store().load_shards(run.id)) == 1
    assert trace.rows == list(range(1, 101))


def test_a_process_that_was_asked_to_stop_hands_over(world, things):
    from cloudtask.iteration import stopping

    things(50)
    trace.pace = 0.1
    run = tasks.visit.iterate(
        Thing.objects.all(), shards=1, keep=True, transactional=False
    )
    world.step()

    with at_point("shard.after_checkpoint", 1, stopping._asked.set):
        world.step()
    assert 0 < len(trace.rows) < 50
    world.step()
    assert len(trace.rows) < 50
    stopping._asked.clear()  # another process
    world.run()

    assert Counter(trace.rows) == Counter(range(1, 51))
    assert run.refresh().state is RunState.FINISHED


@pytest.mark.django_db(databases=["default", "other"])
def test_the_command_that_cron_runs_makes_up_for_lost_steps(world):
    run = start()
    world.step()
    world.purge()
    world.later()
    out = io.StringIO()

    call_command("cloudtask_relay", stdout=out)
    world.run()

    assert "2 lost steps of iterations made again" in out.getvalue()
    assert run.refresh().state is RunState.FINISHED


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_moments_are_moments_in_a_project_without_time_zones(world, settings, zone):
    settings.USE_TZ, settings.TIME_ZONE = False, zone
    run = start(4, shards=1)
    with fault_at(world, "shard.before_complete", 1, "crash"):
        world.step()
        world.step()

    [shard] = store().load_shards(run.id)
    assert shard.lease_until is not None
    assert 0 < shard.lease_until.timestamp() - clock.now() <= 61
    assert run.progress().rate < 4
