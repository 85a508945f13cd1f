"""A row or finalize that exits, is cancelled or raises a BaseException has failed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from cloudtask.iteration import RunState
from cloudtask.models import FailedTask
from cloudtask.runs import FailureState
from tests.iteration import tasks
from tests.iteration.starting import start
from tests.iteration.tasks import trace

pytestmark = pytest.mark.django_db

ATTEMPTS = 3


class Leaving(BaseException):
    """Neither an Exception nor one of Python's own ways to leave."""


LEAVING = pytest.mark.parametrize(
    "kind", [SystemExit, asyncio.CancelledError, GeneratorExit, Leaving]
)
LOOPS = pytest.mark.parametrize(
    ("callback", "policy"),
    [
        (tasks.visit, {}),
        (tasks.visit, {"atomic": "row"}),
        (tasks.visit, {"atomic": "page"}),
        (tasks.visit_many, {"batch_size": 2}),
    ],
    ids=["plain", "row by row", "in transactions", "in lists"],
)


@LEAVING
@LOOPS
def test_a_row_that_leaves_is_tried_again_alone(world, callback, policy, kind):
    trace.raises[2] = [kind("no more paper")] * (1 + ("batch_size" in policy))
    run = start(4, task=callback, shards=1, **policy)

    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert (run.report().done, run.report().failed) == (4, 0)
    assert trace.calls.count("finalize") == 1


@LEAVING
@LOOPS
def test_a_row_that_leaves_at_each_try_is_kept_at_the_last(
    world, callback, policy, kind
):
    trace.raises[2] = [kind("no more paper")] * (2 * ATTEMPTS)
    run = start(4, task=callback.using(max_attempts=ATTEMPTS), shards=1, **policy)

    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert (run.report().done, run.report().failed) == (3, 1)
    [failure] = run.failures()
    assert (failure.state, failure.attempts) == (FailureState.FAILED, ATTEMPTS)
    assert failure.error == f"{kind.__name__}: no more paper"
    assert "in visit" in failure.traceback
    assert Counter(trace.rows)[4] >= 1


@LEAVING
def test_each_try_of_a_row_that_leaves_is_counted_once(world, kind):
    trace.raises[2] = [kind("no more paper")] * (2 * ATTEMPTS)
    start(4, task=tasks.visit.using(max_attempts=ATTEMPTS), shards=1)

    world.run()

    assert Counter(trace.rows) == {1: 1, 2: ATTEMPTS, 3: 1, 4: 1}
    assert world.crashes == 0


@LEAVING
def test_a_row_that_leaves_pauses_the_run_that_is_to_pause(world, kind):
    trace.raises[2] = [kind("no more paper")]
    run = start(4, shards=1, on_error="pause")

    world.run()

    assert run.refresh().state is RunState.PAUSED
    [failure] = run.failures()
    assert failure.state is FailureState.STOPPED
    assert "in visit" in failure.traceback


@LEAVING
def test_finalize_that_leaves_is_called_again(world, kind):
    trace.raises["finalize"] = [kind("no more paper")]
    run = start(2, finalize=tasks.finalize_thrice)

    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert [attempt for attempt, _, _ in trace.attempts] == [1, 2]


@LEAVING
def test_finalize_that_leaves_at_each_attempt_is_kept_at_the_last(world, kind):
    trace.raises["finalize"] = [kind("no more paper")] * (2 * ATTEMPTS)
    run = start(2, finalize=tasks.finalize_thrice)

    world.run()

    assert run.refresh().state is RunState.FAILED
    assert f"{kind.__name__}: no more paper" in run.error
    assert [attempt for attempt, _, _ in trace.attempts] == [1, 2, 3]
    kept = FailedTask.objects.get()
    assert "no more paper" in kept.error
    assert "in finalize_thrice" in kept.traceback
