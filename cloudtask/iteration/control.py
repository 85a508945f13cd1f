"""Changes of a run from outside: pause, cancel, resume, retry or discard its failed
rows, and make lost steps again.

`retry_failures` changes shards that nothing may walk or finalize meanwhile, so it
pauses the run. If legs are at work, a step waits until they have stopped. That step is
enqueued before anything is changed and does what is left to do, wherever the caller is
killed. The generation of the run tells it how far the caller came:

* one before `paused`: nothing was changed
* `paused`: rows may be open
* one after `paused`: the run goes on
* any other: something else has paused or resumed the run since
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from cloudtask import codec, conf, failpoints, registry, stores
from cloudtask.exceptions import CloudTaskError, EnqueueError, PayloadError, Retry
from cloudtask.iteration.announcing import announce
from cloudtask.iteration.description import unsealed
from cloudtask.iteration.sources.walkable import walkable
from cloudtask.iteration.steps import (
    LOOK_AGAIN,
    REOPEN,
    message_of,
    proceed,
    say,
    send,
    send_last,
    send_look,
    send_shards,
    send_watch,
    step,
)
from cloudtask.message import Enqueued
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.runs import FailureState, Run, RunState, Shard, ShardState
from cloudtask.sending import enqueueing
from cloudtask.stores import Store
from cloudtask.stores.runs import LOST_KEY

logger = logging.getLogger("cloudtask")

_BEFORE_THE_END = (RunState.WAITING, RunState.PLANNING, RunState.RUNNING)
_RESUMABLE = (RunState.PAUSED, RunState.FAILED)
_TO_BE_PAUSED = (RunState.RUNNING, RunState.FINISHED)
# The names rest in queues, so they follow from no place in the code.
RETRY_ROWS = "cloudtask.retry_rows"
DISCARD_ROWS = "cloudtask.discard_rows"


def loaded(store: Store, run_id: str) -> Run:
    """The run; raises CloudTaskError if there is none."""
    run = store.load_run(run_id)
    if run is None:
        raise CloudTaskError(f"There is no iteration {run_id} any more.")
    return run


def pause(run_id: str) -> None:
    """Let shards stop at their next checkpoint; raises CloudTaskError if the run has
    ended or finalizes."""
    announce(_change(run_id, RunState.PAUSED, _BEFORE_THE_END), RunState.PAUSED)


def cancel(run_id: str) -> None:
    """Stop a run for good; raises CloudTaskError if it has ended or finalizes."""
    stoppable = (*_BEFORE_THE_END, RunState.PAUSED, RunState.FAILED)
    run = loaded(stores.store(), run_id)
    if run.state in stoppable:
        send_look(run)
    send_last(_change(run_id, RunState.CANCELLED, stoppable))


def _change(run_id: str, to: RunState, only_from: Sequence[RunState]) -> Run:
    store = stores.store()
    is_changed = store.change_run(run_id, to=to, only_from=only_from)
    run = loaded(store, run_id)
    if not is_changed:
        raise CloudTaskError(
            f"Iteration {run_id} is {run.state}: it can't be {to} any more."
        )
    return run


# Resuming


def resume(run_id: str, queryset: Any = None) -> None:
    """Let a run go on that is PAUSED or FAILED; raises CloudTaskError for any other."""
    store = stores.store()
    run = loaded(store, run_id)
    description = None if queryset is None else _described(run, queryset)
    if run.state in _RESUMABLE:
        send_look(run)
        _prepare(store, run)
    to = RunState.RUNNING if run.has_plan else RunState.PLANNING
    if not store.change_run(
        run.id, to=to, only_from=_RESUMABLE, error="", description=description
    ):
        raise CloudTaskError(
            f"Iteration {run.id} is {run.state}; only one that is paused or has failed "
            "can be resumed."
        )
    proceed(store, run_id)


def _prepare(store: Store, run: Run) -> None:
    """Do what a run needs before it goes on."""
    # The rows that paused it are above their cursors, and called again.
    for failure in store.load_failures(run.id):
        if failure.state is FailureState.STOPPED:
            store.resolve_failure(run.id, failure.key)
    # Shards get new numbers, since tasks that were delivered while the run was paused
    # have used up theirs.
    for shard in store.load_shards(run.id):
        if shard.state is not ShardState.DONE and store.bump_shard(shard) is None:
            send_watch(run, shard)


def _described(run: Run, queryset: Any) -> bytes:
    """The description of a run with another queryset."""
    try:
        before = unsealed(run.description)
    except PayloadError as error:
        raise CloudTaskError(
            f"Iteration {run.id} takes no other queryset, since the rest of its "
            f"description can't be read: {error} {LOST_KEY}"
        ) from error
    if before.queryset is None:
        raise CloudTaskError(
            f"Iteration {run.id} walks a list: its places are not keys of a queryset."
        )
    encoded = codec.dumps(walkable(queryset, of=run.task), root="queryset", of=run.task)
    return replace(before, queryset=encoded).sealed()


# Failed rows


def retry_failures(run_id: str) -> int:
    """Open the failed rows of a run again, now or when the legs that are at work have
    stopped; returns how many. Raises CloudTaskError if the run has ended otherwise than
    FINISHED, or finalizes."""
    store = stores.store()
    run = loaded(store, run_id)
    if run.state not in (*_TO_BE_PAUSED, RunState.PAUSED):
        raise _refusal(run)
    # Rows of a finished run wait only if it was resumed while they were opened.
    is_over = run.state is RunState.FINISHED
    count = store.count_failures(run.id, given_up=not is_over)
    if count == 0:
        return 0
    is_paused = run.state is RunState.PAUSED
    paused = run.generation if is_paused else run.generation + 1
    send(message_of(REOPEN, run, paused, delay=LOOK_AGAIN))
    if not is_paused and not _pause(store, run):
        run = loaded(store, run_id)
        if not _is_begun(run, paused):
            raise _refusal(run)
    if not store.is_at_work(run_id):
        _reopen(store, run_id, paused)
    return count


def discard_failures(run_id: str) -> int:
    """Delete the failed rows of a run in any state; returns how many. Its counts stay.
    Raises CloudTaskError if there is no such run."""
    store = stores.store()
    return store.discard_failures(loaded(store, run_id).id)


def enqueue_for_rows(path: str, run_id: str) -> Enqueued:
    """Enqueue the retry of all failed rows of a run, RETRY_ROWS, or their DISCARD_ROWS;
    raises EnqueueError."""
    definition = registry.find(path)
    return enqueueing.enqueue(definition, definition.options, (run_id,), {})


registry.register(Definition(RETRY_ROWS, retry_failures, Options()))
registry.register(Definition(DISCARD_ROWS, discard_failures, Options()))


def _is_begun(run: Run, paused: int) -> bool:
    """Whether another caller is opening the rows, or has opened them."""
    return (run.state, run.generation) in (
        (RunState.PAUSED, paused),
        (RunState.RUNNING, paused + 1),
    )


def _refusal(run: Run) -> CloudTaskError:
    return CloudTaskError(
        f"Iteration {run.id} is {run.state}: its failed rows can't be retried now."
    )


def _pause(store: Store, run: Run) -> bool:
    """Pause the run; False if it was changed since it was read."""
    return store.change_run(
        run.id,
        to=RunState.PAUSED,
        only_from=_TO_BE_PAUSED,
        generation=run.generation,
        error="Its failed rows are being opened again; resume it if this lasts.",
    )


@step(REOPEN)
def reopen(run_id: str, paused: int) -> None:
    """Open the failed rows when no leg is at work, and let the run go on."""
    store = stores.store()
    run = store.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.RUNNING and run.generation == paused + 1:
        proceed(store, run_id)  # the delivery that resumed it may have been killed
        return
    if run.state in _TO_BE_PAUSED and run.generation == paused - 1:
        _pause(store, run)
    elif run.state is not RunState.PAUSED or run.generation != paused:
        return
    if store.is_at_work(run_id) or not _reopen(store, run_id, paused):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)


def _reopen(store: Store, run_id: str, paused: int) -> bool:
    """Open the rows of a run that is PAUSED, and let it go on; False if it is not
    PAUSED, or if another delivery is doing this."""
    lease = conf.settings().lease
    run = store.acquire_run(run_id, state=RunState.PAUSED, lease=lease)
    if run is None:
        return False
    if run.generation != paused:
        store.settle_run(run, to=None, waiting=run.waiting)
        return True
    failpoints.reached("reopen.paused")
    store.reopen_failures(run_id)
    # Tasks that were delivered while the run was paused have used up their numbers.
    for shard in store.load_shards(run_id):
        store.bump_shard(shard)
    failpoints.reached("reopen.opened")
    store.settle_run(run, to=None, waiting=run.waiting)
    store.change_run(
        run_id,
        to=RunState.RUNNING,
        only_from=[RunState.PAUSED],
        generation=paused,
        error="",
    )
    failpoints.reached("reopen.resumed")
    # Also if a caller has resumed the run meanwhile: it knows the old numbers only.
    proceed(store, run_id)
    return True


# Lost steps


def sweep(limit: int = 100, *, seconds: float = 60.0) -> int:
    """Make the steps again that runs have lost, because their attempts were used up or
    their queue was purged; returns how many.

    They get new numbers, since the service remembers names. No step is begun after
    `seconds`, which an outage may take. A step that fails does not stop the others: its
    run says so, and the first error is raised at the end.
    """
    store, made = stores.store(), 0
    stop = time.monotonic() + seconds
    failure: Exception | None = None
    for run_id, make_again in _lost(store, limit):
        if time.monotonic() >= stop:
            break
        try:
            made += make_again()
        except Exception as error:
            logger.exception("A lost step of iteration %s is not made again.", run_id)
            _say(store, run_id, f"A lost step can't be made again: {error}")
            failure = failure or error
    if failure is not None:
        raise failure
    stores.note_upkeep("sweep", f"{made} lost steps made again")
    return made


def _lost(store: Store, limit: int) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The ids of runs that have lost a step, and a function that makes it again."""
    patience = conf.settings().sweep_after
    for shard in store.stale_shards(older_than=patience, limit=limit):
        yield shard.run, partial(_sweep_shard, store, shard)
    for run in store.stale_runs(older_than=patience, limit=limit):
        yield run.id, partial(_sweep_run, store, run)


def _say(store: Store, run_id: str, waiting: str) -> None:
    # It may be the store that failed.
    with suppress(Exception):
        run = store.load_run(run_id)
        if run is not None:
            say(store, run, waiting)


def _sweep_shard(store: Store, shard: Shard) -> bool:
    bumped = store.bump_shard(shard, sweeps=shard.sweeps + 1)
    run = store.load_run(shard.run)
    if bumped is None or run is None:
        return False
    try:
        send_shards(run, [bumped])
    except EnqueueError:
        store.touch_shard(bumped)  # no task was made
        raise
    return True


def _sweep_run(store: Store, run: Run) -> bool:
    if store.bump_run(run) is None:
        return False
    proceed(store, run.id)
    return True


def prune(older_than: timedelta, limit: int = 1000) -> int:
    """Delete runs that ended longer ago, or whose transaction was rolled back; returns
    how many."""
    store = stores.store()
    old = store.old_runs(older_than, limit)
    for run_id in old:
        store.delete_run(run_id)
    return len(old)
