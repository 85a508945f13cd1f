"""retry_failures at every moment, by two callers at once, and with a killed process."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest

from cloudtask import PermanentTaskFailure, Retry, failpoints
from cloudtask.exceptions import CloudTaskError
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, sweep
from cloudtask.stores import store
from tests.iteration.starting import at_point, start
from tests.iteration.tasks import trace
from tests.iteration.world import fault_at

pytestmark = pytest.mark.django_db

EDGES = [
    "step.before_send",
    "step.after_send",
    "reopen.paused",
    "reopen.opened",
    "reopen.resumed",
]


class TestAtWork:
    @pytest.mark.parametrize("passage", [2, 3, 5])
    def test_it_waits_for_shards_at_work(self, world, passage):
        run = start()
        trace.raises[1] = [PermanentTaskFailure("no")]
        counts = []
        trace.pace = 1.5

        def retry():
            counts.append(run.retry_failures())
            assert run.state is RunState.PAUSED

        with at_point("shard.after_checkpoint", passage, retry):
            world.drain()

        assert counts == [1]
        assert run.refresh().state is RunState.FINISHED
        report = run.report()
        assert (report.done, report.failed) == (12, 0)
        assert Counter(trace.rows) == Counter({1: 2, **dict.fromkeys(range(2, 13), 1)})
        assert trace.calls.count("finalize") == 1

    @pytest.mark.parametrize("fault", ["crash", "exception", "duplicate"])
    @pytest.mark.parametrize("point", ["step.before_send", "execute.before_settle"])
    def test_the_step_that_opens_rows_may_die_and_come_again(self, world, point, fault):
        run = start()
        trace.raises[1] = [PermanentTaskFailure("no")]
        trace.pace = 1.5
        with at_point("shard.after_checkpoint", 3, lambda: run.retry_failures()):
            while not any(one.startswith("reopen") for one in world.deliveries):
                world.step()
        with fault_at(world, point, 1, fault):
            world.run()

        assert run.refresh().state is RunState.FINISHED
        assert run.report().done == 12
        assert trace.calls.count("finalize") == 1

    def test_who_pauses_the_run_meanwhile_has_the_last_word(self, world):
        run = start()
        trace.raises[1] = [PermanentTaskFailure("no")]
        trace.pace = 1.5

        def retry_and_pause():
            run.retry_failures()
            run.resume()
            run.pause()

        with at_point("shard.after_checkpoint", 3, retry_and_pause):
            world.drain()
        assert run.refresh().state is RunState.PAUSED
        assert run.report().failed == 1

        run.resume()
        world.drain()
        assert run.refresh().state is RunState.FINISHED

    def test_a_running_run_without_rows_that_were_given_up_goes_on(self, world):
        run = start()
        trace.raises[1] = [Retry(delay=60)]
        trace.pace = 1.5
        states = []

        def retry():
            assert run.retry_failures() == 0
            states.append(run.state)

        with at_point("shard.after_checkpoint", 3, retry):
            world.run()

        assert states == [RunState.RUNNING]

    def test_without_failures_nothing_happens(self, world):
        run = start()
        world.run()

        assert run.retry_failures() == 0
        assert run.refresh().state is RunState.FINISHED

    def test_a_cancelled_run_has_nothing_to_retry(self, world):
        run = start()
        run.cancel()

        with pytest.raises(CloudTaskError, match="can't be retried now"):
            run.retry_failures()


def with_a_failure(world, state):
    """A run in `state` of which a row was given up; nothing is walked right now."""
    trace.raises[1] = [PermanentTaskFailure("no")]
    run = start(4, shards=1)
    if state is RunState.FINISHED:
        world.drain()
        return run
    with fault_at(world, "shard.before_complete", 1, "exception"):
        world.step()
        world.step()
    world.purge()
    if state is RunState.PAUSED:
        run.pause()
    assert run.refresh().state is state
    return run


def assert_all_are_done(run):
    assert (run.refresh().state, run.error) == (RunState.FINISHED, "")
    assert (run.report().done, run.report().failed) == (4, 0)
    assert Counter(trace.rows) == {1: 2, 2: 1, 3: 1, 4: 1}
    assert trace.calls.count("finalize") == 1


def crash():
    raise Crashed


@pytest.mark.parametrize(
    "state", [RunState.RUNNING, RunState.PAUSED, RunState.FINISHED]
)
class TestByState:
    def test_the_rows_are_tried_again_and_the_run_goes_on(
        self, any_store, world, state
    ):
        run = with_a_failure(world, state)

        assert run.retry_failures() == 1
        assert run.state is RunState.RUNNING
        world.drain()

        assert_all_are_done(run)

    @pytest.mark.parametrize("point", EDGES[1:])
    def test_a_caller_that_dies_is_made_up_for(self, any_store, world, state, point):
        run = with_a_failure(world, state)

        with failpoints.at(point, crash), pytest.raises(Crashed):
            run.retry_failures()
        world.drain()  # without the sweeper

        assert_all_are_done(run)

    def test_a_caller_that_dies_before_anything_changes_nothing(self, world, state):
        run = with_a_failure(world, state)
        before = store().load_run(run.id)

        with failpoints.at(EDGES[0], crash), pytest.raises(Crashed):
            run.retry_failures()

        assert store().load_run(run.id) == before

    @pytest.mark.exhaustive(sample=5)
    @pytest.mark.parametrize("fault", ["crash", "exception", "duplicate"])
    @pytest.mark.parametrize("point", EDGES)
    def test_so_is_the_step_that_makes_up_for_it(self, world, state, point, fault):
        run = with_a_failure(world, state)
        with failpoints.at("step.after_send", crash), pytest.raises(Crashed):
            run.retry_failures()

        with fault_at(world, point, 1, fault):
            world.drain()

        assert_all_are_done(run)

    @pytest.mark.parametrize("point", EDGES[1:])
    def test_two_at_once_leave_the_run_going(self, any_store, world, state, point):
        run = with_a_failure(world, state)
        counts = []

        def another():
            counts.append(run.retry_failures())

        with at_point(point, 1, another):
            counts.append(run.retry_failures())
        world.drain()

        assert sum(counts) in (1, 2)
        assert_all_are_done(run)

    @pytest.mark.parametrize("point", EDGES)
    def test_rows_that_are_discarded_under_it_leave_the_run_going(
        self, any_store, world, state, point
    ):
        run = with_a_failure(world, state)
        counts = []

        with at_point(point, 1, lambda: counts.append(run.discard_failures())):
            run.retry_failures()
        world.drain()

        assert run.refresh().state is RunState.FINISHED
        # The row was either tried again or discarded, never lost between both.
        assert (run.report().done, counts) in ((3, [1]), (4, [0]))
        assert run.report().failed == counts[0]
        assert trace.calls.count("finalize") == 1

    @pytest.mark.parametrize("point", EDGES[1:])
    def test_who_pauses_the_run_under_it_has_the_last_word(self, world, state, point):
        run = with_a_failure(world, state)

        def resume_and_pause():
            if run.refresh().state is RunState.PAUSED:
                run.resume()
            if run.refresh().state is RunState.RUNNING:
                run.pause()

        with at_point(point, 1, resume_and_pause), suppress(CloudTaskError):
            run.retry_failures()
        world.drain()

        if run.refresh().state is RunState.PAUSED:
            run.resume()
            world.drain()
        if run.report().done < 4:
            run.retry_failures()
            world.drain()
        assert run.refresh().state is RunState.FINISHED
        assert run.report().done == 4


def test_a_run_that_finalizes_meanwhile_is_refused(world):
    run = with_a_failure(world, RunState.RUNNING)

    def complete():
        world.later()
        sweep()
        world.collect()
        [walk] = [one for one in world.waiting if one[2].message.task.endswith("walk")]
        world.waiting.remove(walk)
        world.deliver(walk[2], walk[3])

    with (
        at_point("step.after_send", 1, complete),
        pytest.raises(CloudTaskError, match="is finalizing: its failed rows can't"),
    ):
        run.retry_failures()
    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert (run.report().done, run.report().failed) == (3, 1)
    assert run.retry_failures() == 1
    world.run()
    assert_all_are_done(run)
