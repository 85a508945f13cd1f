"""Runs that have lost their tasks: attempts exhausted, a queue purged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial

from cloudtask import conf
from cloudtask.exceptions import EnqueueError
from cloudtask.iteration.finalizing import finalize_if_done, send_finalize, send_stopped
from cloudtask.iteration.messages import WALK, message_of, send
from cloudtask.iteration.planning import send_plan, start
from cloudtask.iteration.running import say
from cloudtask.runs import STOPPED, Run, RunState, Shard
from cloudtask.stores import Store, store

logger = logging.getLogger("cloudtask")


def sweep(limit: int = 100, *, seconds: float = 60.0) -> int:
    """Make again the tasks of runs that have lost theirs: attempts exhausted, queue
    purged. Under new numbers, since the service remembers names. How many.

    It begins nothing more after `seconds`, which an outage may take. What fails keeps
    nothing else back: its run says so, and the first error is raised at the end.
    """
    kept, made = store(), 0
    stop = time.monotonic() + seconds
    failure: Exception | None = None
    for run_id, make_again in _lost(kept, limit):
        if time.monotonic() >= stop:
            break
        try:
            made += make_again()
        except Exception as error:
            logger.exception("A lost step of iteration %s is not made again.", run_id)
            _say(kept, run_id, f"A lost step can't be made again: {error}")
            failure = failure or error
    if failure is not None:
        raise failure
    return made


def _lost(kept: Store, limit: int) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The ids of runs that have lost a task, and what makes it again."""
    patience = conf.settings().sweep_after
    for shard in kept.stale_shards(older_than=patience, limit=limit):
        yield shard.run, partial(_sweep_shard, kept, shard)
    for run in kept.stale_runs(older_than=patience, limit=limit):
        yield run.id, partial(_sweep_run, kept, run)


def _say(kept: Store, run_id: str, error: str) -> None:
    # What failed may well be the store.
    with suppress(Exception):
        run = kept.load_run(run_id)
        if run is not None:
            say(kept, run, error)


def prune(older_than: timedelta, limit: int = 1000) -> int:
    """Delete runs that ended longer ago, or whose transaction was rolled back; how
    many."""
    kept = store()
    old = kept.old_runs(older_than, limit)
    for run_id in old:
        kept.delete_run(run_id)
    return len(old)


def _sweep_shard(kept: Store, shard: Shard) -> bool:
    bumped = kept.bump_shard(shard, sweeps=shard.sweeps + 1)
    run = kept.load_run(shard.run)
    if bumped is None or run is None:
        return False
    try:
        send(message_of(WALK, run, bumped.index, bumped.seq))
    except EnqueueError:
        kept.touch_shard(bumped)  # nothing was made in vain
        raise
    return True


def _sweep_run(kept: Store, run: Run) -> bool:
    bumped = kept.bump_run(run)
    if bumped is None:
        return False
    if bumped.state is RunState.PLANNING and bumped.has_plan:
        start(kept, bumped.id)
    elif not bumped.is_planned and bumped.state not in STOPPED:
        send_plan(bumped)
    elif bumped.state is RunState.FINALIZING:
        send_finalize(kept, bumped)
    elif bumped.state is RunState.RUNNING:
        finalize_if_done(kept, bumped.id)
    else:
        send_stopped(kept, bumped.id)
    return True
