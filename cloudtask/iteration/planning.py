"""The first step of a run: cut what it walks into shards, once, and start them."""

from __future__ import annotations

from cloudtask import failpoints
from cloudtask.iteration.description import Description
from cloudtask.iteration.finalizing import finalize_if_done
from cloudtask.iteration.keys import text_of
from cloudtask.iteration.messages import step
from cloudtask.iteration.running import readable
from cloudtask.iteration.sources import Source
from cloudtask.iteration.walking import send_shards
from cloudtask.stores import Store, store
from cloudtask.stores.runs import ENDED, RunState, Shard, ShardState


def plan(run_id: str, generation: int) -> None:
    """Cut what the run walks into shards, once, and enqueue them."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None or run.state in ENDED or run.state is RunState.PAUSED:
        return
    if not run.is_planned:
        kept.change_run(run_id, to=RunState.PLANNING, only_from=[RunState.WAITING])
        work = readable(kept, run)
        if work is None:
            return
        _set_plan(kept, run_id, *work)
    _start(kept, run_id)


def _set_plan(
    kept: Store, run_id: str, description: Description, source: Source
) -> None:
    failpoints.reached("plan.before_plan")
    made = source.plan(description.shards, include_new=description.include_new)
    shards = [
        Shard(
            run=run_id,
            index=index,
            low=text_of(piece.bounds.low),
            high=text_of(piece.bounds.high),
            expected=piece.expected,
        )
        for index, piece in enumerate(made.pieces)
    ]
    # False: another delivery was first, and its plan is the one.
    kept.set_plan(run_id, shards, total=made.total)
    failpoints.reached("plan.after_plan")


def _start(kept: Store, run_id: str) -> None:
    """Enqueue what the stored plan says; without a shard there is all done."""
    # PLANNING still: it was paused under the planner, and resumed before the plan.
    run = kept.load_run(run_id)
    if run is not None and run.is_planned and run.state is RunState.PLANNING:
        kept.change_run(run_id, to=RunState.RUNNING, only_from=[RunState.PLANNING])
        run = kept.load_run(run_id)
    if run is None or run.state is not RunState.RUNNING:
        return
    undone = [s for s in kept.load_shards(run_id) if s.state is not ShardState.DONE]
    if undone:
        send_shards(run, undone)
    else:
        finalize_if_done(kept, run_id)


PLAN = step(plan)
