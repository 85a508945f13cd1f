"""Stopping a run, and going on with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cloudtask import codec
from cloudtask.exceptions import CloudTaskError, PayloadError
from cloudtask.iteration.description import unsealed
from cloudtask.iteration.finalizing import finalize_if_done, send_stopped
from cloudtask.iteration.planning import send_plan, start
from cloudtask.iteration.querysets import walkable
from cloudtask.iteration.running import LOST_KEY
from cloudtask.iteration.walking import send_shards, send_watch
from cloudtask.runs import Run, RunState, ShardState
from cloudtask.stores import Store, store

_BEFORE_THE_END = (RunState.WAITING, RunState.PLANNING, RunState.RUNNING)


def pause(run_id: str) -> None:
    """Let shards stop at their next checkpoint; raises CloudTaskError too late."""
    _change(run_id, RunState.PAUSED, _BEFORE_THE_END)


def cancel(run_id: str) -> None:
    """Stop a run for good; raises CloudTaskError when it has ended or finalizes."""
    stoppable = (*_BEFORE_THE_END, RunState.PAUSED, RunState.FAILED)
    _change(run_id, RunState.CANCELLED, stoppable)
    send_stopped(store(), run_id)


def _change(run_id: str, to: RunState, only_from: Sequence[RunState]) -> None:
    kept = store()
    if not kept.change_run(run_id, to=to, only_from=only_from):
        run = loaded(kept, run_id)
        raise CloudTaskError(
            f"Iteration {run_id} is {run.state}: it can't be {to} any more."
        )


def resume(run_id: str, queryset: Any = None) -> None:
    """Let a run go on that is PAUSED or FAILED; raises CloudTaskError for another."""
    kept = store()
    run = loaded(kept, run_id)
    description = None if queryset is None else _described(run, queryset)
    to = RunState.RUNNING if run.has_plan else RunState.PLANNING
    if not kept.change_run(
        run.id,
        to=to,
        only_from=[RunState.PAUSED, RunState.FAILED],
        error="",
        description=description,
    ):
        raise CloudTaskError(
            f"Iteration {run.id} is {run.state}; only one that is paused or has failed "
            "can be resumed."
        )
    _go_on(kept, loaded(kept, run_id))


def loaded(kept: Store, run_id: str) -> Run:
    """The run; raises CloudTaskError when there is none."""
    run = kept.load_run(run_id)
    if run is None:
        raise CloudTaskError(f"There is no iteration {run_id} any more.")
    return run


def _described(run: Run, queryset: Any) -> bytes:
    """The run's description with another queryset."""
    try:
        before = unsealed(run.description)
    except PayloadError as error:
        raise CloudTaskError(
            f"Iteration {run.id} takes no other queryset, since the rest of what it "
            f"does can't be read: {error} {LOST_KEY}"
        ) from error
    if before.queryset is None:
        raise CloudTaskError(
            f"Iteration {run.id} walks a list: places in it are no keys of a queryset."
        )
    encoded = codec.dumps(walkable(queryset), root="queryset")
    return replace(before, queryset=encoded).sealed()


def _go_on(kept: Store, run: Run) -> None:
    """Enqueue what a run needs that was resumed."""
    if run.state is RunState.PLANNING and run.has_plan:
        start(kept, run.id)  # its plan was stored while we resumed it
        run = loaded(kept, run.id)
    if not run.is_planned:
        send_plan(run)
    undone = [s for s in kept.load_shards(run.id) if s.state is not ShardState.DONE]
    if not undone:
        finalize_if_done(kept, run.id)
        return
    # Under new numbers: tasks that came while the run was paused have used up theirs.
    bumped = {shard.index: kept.bump_shard(shard) for shard in undone}
    send_shards(run, [shard for shard in bumped.values() if shard is not None])
    for shard in undone:
        if bumped[shard.index] is None:
            send_watch(run, shard)
