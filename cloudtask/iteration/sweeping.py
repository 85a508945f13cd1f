"""Runs that have lost their tasks: attempts exhausted, a queue purged."""

from __future__ import annotations

from datetime import timedelta

from cloudtask import conf
from cloudtask.iteration.finalizing import finalize_if_done, send_finalize, send_stopped
from cloudtask.iteration.messages import message_of, send
from cloudtask.iteration.planning import send_plan
from cloudtask.iteration.walking import WALK
from cloudtask.stores import Store, store
from cloudtask.stores.runs import STOPPED, Run, RunState


def sweep(limit: int = 100) -> int:
    """Make again the tasks of runs that have lost theirs: attempts exhausted, queue
    purged. Under new numbers, since the service remembers names. How many."""
    kept, patience = store(), conf.settings().sweep_after
    made = 0
    for shard in kept.stale_shards(older_than=patience, limit=limit):
        bumped = kept.bump_shard(shard, sweeps=shard.sweeps + 1)
        run = kept.load_run(shard.run)
        if bumped is not None and run is not None:
            send(message_of(WALK, run, bumped.index, bumped.seq))
            made += 1
    for run in kept.stale_runs(older_than=patience, limit=limit):
        made += _sweep_run(kept, run)
    return made


def prune(older_than: timedelta, limit: int = 1000) -> int:
    """Delete runs that ended longer ago, or whose transaction was rolled back; how
    many."""
    kept = store()
    old = kept.old_runs(older_than, limit)
    for run_id in old:
        kept.delete_run(run_id)
    return len(old)


def _sweep_run(kept: Store, run: Run) -> bool:
    bumped = kept.bump_run(run)
    if bumped is None:
        return False
    if not bumped.is_planned and bumped.state not in STOPPED:
        send_plan(bumped)
    elif bumped.state is RunState.FINALIZING:
        send_finalize(kept, bumped)
    elif bumped.state is RunState.RUNNING:
        finalize_if_done(kept, bumped.id)
    else:
        send_stopped(kept, bumped.id)
    return True
