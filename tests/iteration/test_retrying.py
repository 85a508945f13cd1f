"""retry_failures, at every moment."""

from __future__ import annotations

from collections import Counter

import pytest

from cloudtask import PermanentTaskFailure, Retry
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import RunState
from tests.iteration.starting import at_point, start
from tests.iteration.tasks import trace
from tests.iteration.world import fault_at

pytestmark = pytest.mark.django_db


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
