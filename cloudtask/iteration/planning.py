"""The first step of a run: cut what it walks into shards, once, and start them.

A plan that takes long is stored in parts, each with its shards and with where the next
one begins, in one transaction; the shards of a part start before the next is made. Who
comes second with a part, finds the number of the part grown, and does what follows from
the stored plan. Killed before that transaction, a planner leaves nothing; killed after
it, a delivery that comes again, or a stale run for the sweeper.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cloudtask import failpoints
from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration import stopping
from cloudtask.iteration.description import Description
from cloudtask.iteration.finalizing import finalize_if_done
from cloudtask.iteration.keys import text_of
from cloudtask.iteration.messages import PLAN, message_of, send, step
from cloudtask.iteration.planner import IsOver, Piece, rest_of
from cloudtask.iteration.running import readable, say
from cloudtask.iteration.sources import Source
from cloudtask.iteration.walking import send_shards
from cloudtask.runs import ENDED, Run, RunState, Shard, ShardState
from cloudtask.stores import Store, store

logger = logging.getLogger("cloudtask")

PART_TIME = 20.0  # seconds after which shards start, whether all are known or not

monotonic: Callable[[], float] = time.monotonic  # tests put a virtual one here


@step(PLAN)
def plan(run_id: str, generation: int, part: int = 0) -> None:
    """Cut what the run walks, or the rest of it, into shards, once, and enqueue them.

    The numbers only tell tasks apart: what is left to do, the stored run says.
    """
    kept = store()
    run = kept.load_run(run_id)
    if run is None or run.state in ENDED or run.state is RunState.PAUSED:
        return
    if not run.is_planned:
        if kept.change_run(run_id, to=RunState.PLANNING, only_from=[RunState.WAITING]):
            run = kept.load_run(run_id) or run
        work = readable(kept, run)
        if work is None:
            return
        try:
            _add_part(kept, run, *work)
        except UnsupportedValue as error:
            _fail(kept, run, error)
            return
        except Exception as error:
            say(kept, run, f"The plan waits: {type(error).__name__}: {error}")
            raise
    start(kept, run_id)


def _fail(kept: Store, run: Run, error: UnsupportedValue) -> None:
    """No version of this task can plan the run: its keys don't travel."""
    logger.error("Iteration %s of %s can't be planned: %s", run.id, run.task, error)
    kept.change_run(
        run.id,
        to=RunState.FAILED,
        only_from=[RunState.PLANNING, RunState.RUNNING],
        error=f"A primary key can't be kept as text: {error} Register its type with "
        "cloudtask.codec.register(), and resume().",
    )


def _add_part(kept: Store, run: Run, description: Description, source: Source) -> None:
    failpoints.reached("plan.before_plan")
    made = source.plan(
        description.shards,
        include_new=description.include_new,
        rest=rest_of(run.rest),
        is_over=_after(PART_TIME),
    )
    shards = [_shard(run, index, piece) for index, piece in enumerate(made.pieces)]
    # False: another delivery was first, and its plan is the one.
    kept.add_part(
        run.id,
        run.part,
        shards,
        total=made.total,
        rest=made.rest.as_text() if made.rest else None,
    )
    failpoints.reached("plan.after_plan")


def _after(seconds: float) -> IsOver:
    until = monotonic() + seconds
    return lambda: monotonic() >= until or stopping.asked()


def _shard(run: Run, index: int, piece: Piece) -> Shard:
    return Shard(
        run=run.id,
        index=index,
        low=text_of(piece.bounds.low),
        high=text_of(piece.bounds.high),
        expected=piece.expected,
    )


def start(kept: Store, run_id: str) -> None:
    """Enqueue what the stored plan says; without a shard there is all done."""
    run = kept.load_run(run_id)
    # PLANNING still: it was paused under the planner, and resumed before the plan.
    if run is not None and run.has_plan and run.state is RunState.PLANNING:
        kept.change_run(run_id, to=RunState.RUNNING, only_from=[RunState.PLANNING])
        run = kept.load_run(run_id)
    if run is None or run.state is not RunState.RUNNING:
        return
    undone = [s for s in kept.load_shards(run_id) if s.state is not ShardState.DONE]
    if undone:
        send_shards(run, undone)
    if not run.is_planned:
        send_plan(run)
    elif not undone:
        finalize_if_done(kept, run_id)


def send_plan(run: Run) -> None:
    """Enqueue the plan of a run, or the next part of it."""
    send(message_of(PLAN, run, run.generation, run.part))
