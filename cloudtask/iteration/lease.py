"""Takes the lease of a shard for a delivery, and gives it back.

A delivery that does not get it sends again what must follow from the stored state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.db import Error

from cloudtask import clock, conf, failpoints, registry, stores
from cloudtask.discretion import said
from cloudtask.exceptions import CloudTaskError, SingularTaskFailure, TaskNotFound
from cloudtask.iteration import stopping
from cloudtask.iteration.description import A_ROW, Description
from cloudtask.iteration.sources import Source
from cloudtask.iteration.sources.pages import STRIDE
from cloudtask.iteration.steps import (
    WALK,
    advice,
    budget,
    fail,
    finalize_if_done,
    message_of,
    opened,
    options_of,
    say,
    send,
    send_last,
    send_shards,
)
from cloudtask.registry import Definition
from cloudtask.runs import Run, RunState, Shard, ShardState, Walked
from cloudtask.stores import Store

ROW_ATTEMPTS = 25  # of a row with on_error="retry", if the task does not say
AFTER_A_DEATH = timedelta(seconds=15)  # the first lease, until rows tell how long
SHORTEST_LEG = 5.0  # seconds that a leg may take, however soon earlier ones were killed
GROWTH, BELOW, PROBE = 1.5, 0.8, 1.1  # of the time of legs, after one that ended well


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery whose shard is free to be walked, and the run's task."""

    store: Store
    run: Run
    shard: Shard
    definition: Definition


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard whose lease is ours, and everything that does not change during the leg.

    `shard` is as it was when the lease was taken. `time` is how long a lease lasts.
    `budget` is how long Cloud Tasks waits for the delivery, and `limit` how long the
    leg may take because workers are killed; both are in seconds. `clock` is a
    stopwatch.
    """

    store: Store
    run: Run
    shard: Shard
    description: Description
    source: Source
    function: Callable[..., Any]
    row_attempts: int
    time: timedelta
    budget: float
    clock: Callable[[], float]
    limit: float | None = None


def arrived(run_id: str, index: int, seq: int) -> Arrival | None:
    store = stores.store()
    run = store.load_run(run_id)
    if run is None:
        return None
    shard = store.load_shard(run_id, index)
    if run.state is not RunState.RUNNING or shard is None or shard.seq != seq:
        repair(store, run_id, index, seq)
        return None
    try:
        definition = registry.find(run.task)
    except TaskNotFound as error:
        store.touch_shard(shard)  # its task was delivered, and will be again
        say(store, run, f"It waits: {error}")
        raise
    if stopping.asked():
        raise SingularTaskFailure("This process is about to end; another one walks.")
    return Arrival(store, run, shard, definition)


def leased(arrival: Arrival) -> Shard | None:
    """Take the lease of the shard; None if it is not to be had. If the worker before
    was killed, legs of the run become shorter."""
    failpoints.reached("shard.before_lease")
    store, found = arrival.store, arrival.shard
    lease = conf.settings().lease
    if found.state is ShardState.RUNNING:
        lease = min(lease, AFTER_A_DEATH)
    shard = store.acquire(
        found.run,
        found.index,
        found.seq,
        lease=lease,
        budget=budget(options_of(arrival.run)),
    )
    if shard is not None and shard.deaths:
        slow_down(store, found.run, found.lived)
    return shard


def lease_of(arrival: Arrival, run: Run, shard: Shard) -> Lease | None:
    """The lease with all that a leg needs; None if the run can't be read, and has
    failed. Raises TypeError or PayloadError if the callback can't be called."""
    found = opened(arrival.store, run)
    if found is None:
        return None
    description, source = found.description, found.source
    function = _callback(arrival.definition, description)
    try:
        source.check()
    except (Error, CloudTaskError):
        raise
    except Exception as error:  # noqa: BLE001  whatever the queryset raises
        fail(arrival.store, run, f"It can't be read: {named(error)}. {advice(run)}")
        return None
    stopping.hand_over_on_sigterm()
    # A worker was killed before it had read a page: the query may take very long.
    is_stuck = bool(shard.deaths) and not arrival.shard.lived and source.is_filtered
    if is_stuck and shard.stride is None:
        shard = replace(shard, stride=STRIDE)
    options = options_of(run)
    return Lease(
        store=arrival.store,
        run=run,
        shard=shard,
        description=description,
        source=source,
        function=function,
        row_attempts=options.max_attempts or ROW_ATTEMPTS,
        time=conf.settings().lease,
        budget=budget(options).total_seconds(),
        clock=clock.stopwatch(),
        limit=run.leg_limit,
    )


def _callback(definition: Definition, description: Description) -> Callable[[Any], Any]:
    """The function for one row, or for a list. Raises TypeError if it does not take the
    arguments of the run any more."""
    function = definition.function
    args, kwargs = description.call_arguments()
    definition.check_call((A_ROW, *args), kwargs)
    if not args and not kwargs:
        return function
    return lambda value: function(value, *args, **kwargs)


def named(error: Exception) -> str:
    ours = isinstance(error, CloudTaskError)
    return said(error) if ours else f"{type(error).__name__}: {said(error)}"


def untouched(shard: Shard) -> Walked:
    """The progress of a shard whose leg did nothing."""
    return Walked(
        cursor=shard.cursor,
        done=shard.done,
        failed=shard.failed,
        skipped=shard.skipped,
        is_walked=shard.is_walked,
        stride=shard.stride,
    )


def give_back(
    store: Store, shard: Shard, walked: Walked | None, *, is_killed: bool = False
) -> None:
    """End the lease of a leg that failed. The same delivery comes again, after a wait
    that grows."""
    # It may be the store that failed: then the lease expires.
    with suppress(Exception):
        store.give_back(shard, walked, is_killed=is_killed)


# The time of legs while workers are killed


def slow_down(store: Store, run_id: str, lived: float) -> None:
    """Have legs take at most half of the time after which a worker was killed."""
    run = store.load_run(run_id)
    if run is None:
        return
    known = lived if run.leg_limit is None else min(lived, run.leg_limit)
    limit = max(SHORTEST_LEG, known / 2)
    store.set_pace(run_id, leg_limit=limit, killed_after=max(lived, limit))


def speed_up(lease: Lease, lived: float) -> None:
    """Have legs take longer after one that took all of its time and was not killed."""
    if lease.limit is None or lived < lease.limit:
        return
    run = lease.store.load_run(lease.run.id)
    if run is None or run.leg_limit != lease.limit:
        return  # another leg was killed, or has done this
    # Workers are probably killed again after the same time: it is only probed slowly.
    killed_after = run.killed_after or lease.limit
    if lease.limit >= BELOW * killed_after:
        killed_after *= PROBE
    limit = min(lease.limit * GROWTH, BELOW * killed_after)
    if limit >= lease.budget - lease.description.margin:
        lease.store.set_pace(run.id, leg_limit=None, killed_after=None)
    else:
        limit = max(limit, lease.limit)
        lease.store.set_pace(run.id, leg_limit=limit, killed_after=killed_after)


# Without a lease


def repair(store: Store, run_id: str, index: int, seq: int) -> None:
    """Send again what must follow from the stored state, since the lease was not to be
    had. Raises SingularTaskFailure while another delivery has it."""
    run = store.load_run(run_id)
    if run is None:
        return
    if run.state is not RunState.RUNNING:
        send_last(run)
        return
    shard = store.load_shard(run_id, index)
    if shard is None or shard.state is ShardState.DONE:
        finalize_if_done(store, run_id)
    elif shard.seq > seq:
        send(message_of(WALK, run, index, shard.seq, delay=_wait_of(store, shard)))
        _send_new_shards(store, run)
    else:
        raise SingularTaskFailure(
            f"Shard {index} of iteration {run_id} is held by another delivery. It is "
            "tried again in case that one is killed."
        )


def _wait_of(store: Store, shard: Shard) -> float:
    """Seconds until a row of the shard is due, if it waits for nothing else."""
    if not shard.is_walked:
        return 0.0
    due, seconds = store.waiting_failures(shard.run, shard.index, limit=1)
    return 0.0 if due else seconds or 0.0


def _send_new_shards(store: Store, run: Run) -> None:
    """Enqueue shards that were split off by a leg that was killed before it could."""
    fresh = [
        shard
        for shard in store.load_shards(run.id)
        if shard.state is ShardState.WAITING and shard.seq == 0 and shard.fence == 0
    ]
    if fresh:
        send_shards(run, fresh)
