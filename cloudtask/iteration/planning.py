"""The first step of a run: cut its rows into shards, once, and start them. Later a leg
that runs out of time cuts the rest of its shard in half.

A plan that takes long is stored in parts. Each part is stored in one transaction, with
its shards and the place where the next part begins, and its shards start before the
next part is made. If two deliveries make the same part, the second finds the number of
the part grown, and does what follows from the stored plan. A planner that is killed
before that transaction leaves nothing. After it, the delivery comes again, or the
sweeper finds the run.
"""

from __future__ import annotations

from collections.abc import Callable

from cloudtask import carriers, clock, failpoints, stores
from cloudtask.discretion import said
from cloudtask.exceptions import PermanentTaskFailure, UnsupportedValue
from cloudtask.iteration import stopping
from cloudtask.iteration.announcing import announce
from cloudtask.iteration.bounds import text_of
from cloudtask.iteration.leg import Leg
from cloudtask.iteration.planner import MAX_SHARDS, IsOver, Piece, Plan, rest_of
from cloudtask.iteration.sources.pages import PAGE_MAX
from cloudtask.iteration.steps import (
    PLAN,
    Opened,
    fail,
    in_context,
    opened,
    proceed,
    say,
    step,
)
from cloudtask.runs import ENDED, Run, RunState, Shard, ShardState
from cloudtask.stores import Store

WORTH = 2 * PAGE_MAX  # rows; of fast ones a smaller rest is not worth a task
MOST_SHARDS = 4 * MAX_SHARDS  # a run never has more shards, done or not
PART_TIME = 20.0  # seconds after which shards start, whether all are known or not


@step(PLAN)
def plan(run_id: str, generation: int, part: int = 0) -> None:
    """Cut the rows of the run, or the rest of them, into shards, once, and enqueue
    them.

    The numbers make the names of tasks different. The stored run tells what is left to
    do: nothing before its generation is `generation`, see `send_look`.
    """
    carriers.note(run=run_id)
    store = stores.store()
    run = store.load_run(run_id)
    if run is not None and run.generation < generation:
        return
    if run is None or run.state in (RunState.PAUSED, *ENDED):
        # A run that was stopped may still need its last step.
        proceed(store, run_id)
        return
    if not run.is_planned and not _planned(store, run):
        return
    proceed(store, run_id)


def _planned(store: Store, run: Run) -> bool:
    """Make the next part of the plan; False if the run has failed."""
    if store.change_run(run.id, to=RunState.PLANNING, only_from=[RunState.WAITING]):
        run = store.load_run(run.id) or run
    found = opened(store, run)
    if found is None:
        return False
    try:
        with in_context(run):
            made = _made(found)
        _add_part(store, run, made)
    except PermanentTaskFailure as error:
        fail(store, run, f"It can't be planned: {error}")
        return False
    except UnsupportedValue as error:
        fail(
            store,
            run,
            f"A primary key can't be kept as text: {error} If its type is not known, "
            "register it with cloudtask.codec.register(), and resume().",
        )
        return False
    except Exception as error:
        say(store, run, f"The plan waits: {type(error).__name__}: {said(error)}")
        raise
    return True


def _made(found: Opened) -> Plan:
    failpoints.reached("plan.before_plan")
    description = found.description
    return found.source.plan(
        description.shards,
        include_new=description.include_new,
        rest=rest_of(found.run.rest),
        is_over=_after(PART_TIME, clock.stopwatch()),
    )


def _after(seconds: float, now: Callable[[], float]) -> IsOver:
    until = now() + seconds
    return lambda: now() >= until or stopping.asked()


def _add_part(store: Store, run: Run, made: Plan) -> None:
    shards = [
        _shard(run, index, piece, made.stride)
        for index, piece in enumerate(made.pieces)
    ]
    # False: another delivery was first, and its plan is the one.
    is_added = store.add_part(
        run.id,
        run.part,
        shards,
        total=made.total,
        is_estimated=made.is_estimated,
        rest=made.rest.as_text() if made.rest else None,
    )
    failpoints.reached("plan.after_plan")
    if is_added and run.part == 0:
        announce(run, RunState.RUNNING)


def _shard(run: Run, index: int, piece: Piece, stride: int | None) -> Shard:
    return Shard(
        run=run.id,
        index=index,
        low=text_of(piece.bounds.low),
        high=text_of(piece.bounds.high),
        expected=piece.expected,
        stride=stride,
    )


# Half of a shard


def half_of(leg: Leg) -> Shard | None:
    """The upper half of the rows that `leg` leaves, as a future shard; None if it is
    not worth a task, or if as many shards are at work as allowed."""
    shard = leg.lease.shard
    walked = leg.settled - (shard.done + shard.failed + shard.skipped)
    if not walked:
        return None
    # Estimates err: a leg that was full of rows probably leaves as many.
    left = max(shard.expected - leg.settled, walked)
    if left < _worth(leg, walked) or not _has_room(leg):
        return None
    return _cut(leg, left)


def _worth(leg: Leg, walked: int) -> float:
    """Rows that keep a task busy for as long as it may run; WORTH if that is less."""
    took = max(leg.lease.clock() - leg.started, 1e-6)
    return max(2.0, min(WORTH, walked * leg.lease.budget / took))


def _has_room(leg: Leg) -> bool:
    found = leg.lease.store.load_shards(leg.lease.run.id)
    undone = sum(shard.state is not ShardState.DONE for shard in found)
    allowed = leg.lease.description.shards or MAX_SHARDS
    return undone < allowed and len(found) < MOST_SHARDS


def _cut(leg: Leg, left: int) -> Shard | None:
    """The key in the middle is found by a walk along the index. The walk becomes
    shorter if fewer rows are left than was expected."""
    shard, half = leg.lease.shard, left // 2
    while half >= 1:
        middle = leg.lease.source.key_after(leg.bounds, half)
        if middle is not None and text_of(middle) != shard.high:
            return Shard(
                run=shard.run,
                index=0,  # the store gives it the next one
                low=text_of(middle),
                high=shard.high,
                expected=left - half,
                stride=leg.stride,
            )
        half //= 4
    return None
