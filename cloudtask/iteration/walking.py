"""A shard, walked leg by leg: each delivery walks for as long as it may."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cloudtask import clock, conf, failpoints, registry
from cloudtask.exceptions import CloudTaskError, SingularTaskFailure, TaskNotFound
from cloudtask.iteration import failing, loops, stopping
from cloudtask.iteration.description import Description
from cloudtask.iteration.finalizing import (
    budget,
    finalize_if_done,
    send_finalize,
    send_stopped,
)
from cloudtask.iteration.legs import CAREFUL_FROM, End, Leg, Stopped, Work
from cloudtask.iteration.messages import WALK, message_of, options_of, send, step
from cloudtask.iteration.running import inside, readable, say
from cloudtask.iteration.sources import Source
from cloudtask.iteration.splitting import half_of
from cloudtask.registry import Definition
from cloudtask.runs import LeaseLost, Run, RunState, Shard, ShardState, Walked
from cloudtask.stores import Store, store

monotonic: Callable[[], float] = time.monotonic  # tests put a virtual one here


@step(WALK)
def walk(run_id: str, index: int, seq: int) -> None:
    """Walk a shard for as long as one delivery may, then hand over or complete it."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None:
        return
    shard = kept.load_shard(run_id, index)
    if run.state is not RunState.RUNNING or shard is None or shard.seq != seq:
        _repair(kept, run_id, index, seq)
        return
    definition = _known(kept, run, shard)
    if stopping.asked():
        raise SingularTaskFailure("This process is about to end; another one walks.")
    failpoints.reached("shard.before_lease")
    shard = kept.acquire(
        run_id,
        index,
        seq,
        lease=conf.settings().lease,
        budget=budget(options_of(run)),
    )
    if shard is None:
        _repair(kept, run_id, index, seq)
        return
    try:
        _leased(kept, definition, shard)
    except LeaseLost as error:
        # Not acknowledged: who has the lease now may die. When the shard has moved on,
        # the next delivery finds out and repairs what there is to repair.
        raise SingularTaskFailure(
            f"Shard {index} of iteration {run_id} went to another delivery."
        ) from error


def _known(kept: Store, run: Run, shard: Shard) -> Definition:
    """The run's task; the run waits, and says so, while this version has none."""
    try:
        return registry.find(run.task)
    except TaskNotFound as error:
        kept.touch_shard(shard)  # its task has come, and comes again
        say(kept, run, f"It waits: {error}")
        raise


def _leased(kept: Store, definition: Definition, shard: Shard) -> None:
    """What the holder of the lease does. When that fails, what was done is written and
    the lease given back, so that the redelivery can go on from there."""
    leg: Leg | None = None
    run: Run | None = None
    try:
        failpoints.reached("shard.after_lease")
        run = kept.load_run(shard.run)
        found = readable(kept, run) if run is not None else None
        if run is None or found is None:
            kept.release(shard, _untouched(shard))
            return
        leg = Leg(_work(kept, run, definition, *found), shard)
        _walk_leg(leg)
    except LeaseLost:
        raise
    except Exception as error:
        is_known = leg is not None and not leg.is_doubtful
        _give_back(kept, run, shard, leg.walked if leg and is_known else None, error)
        raise


def _untouched(shard: Shard) -> Walked:
    """The progress of a shard whose leg did nothing."""
    return Walked(
        cursor=shard.cursor,
        done=shard.done,
        failed=shard.failed,
        skipped=shard.skipped,
        is_walked=shard.is_walked,
    )


def _give_back(
    kept: Store,
    run: Run | None,
    shard: Shard,
    walked: Walked | None,
    error: Exception,
) -> None:
    """End the lease of a leg that failed. Under the same number: the delivery comes
    again, after a wait that grows."""
    # What failed may well be the store: then the lease ends by itself.
    with suppress(Exception):
        kept.give_back(shard, walked)
        if run is not None and not isinstance(error, CloudTaskError):
            text = f"{type(error).__name__}: {error}"
            say(kept, run, f"Shard {shard.index} waits: {text}")


def _work(
    kept: Store,
    run: Run,
    definition: Definition,
    description: Description,
    source: Source,
) -> Work:
    stopping.hand_over_on_sigterm()
    options = options_of(run)
    return Work(
        store=kept,
        run=run,
        description=description,
        source=source,
        function=_callback(definition, description),
        row_attempts=options.max_attempts or failing.ROW_ATTEMPTS,
        lease=conf.settings().lease,
        budget=budget(options).total_seconds(),
        clock=monotonic,
    )


def _callback(definition: Definition, description: Description) -> Callable[[Any], Any]:
    function = definition.function
    args, kwargs = description.call_arguments()
    if not args and not kwargs:
        return function
    return lambda value: function(value, *args, **kwargs)


def _walk_leg(leg: Leg) -> None:
    kept, run = leg.work.store, leg.work.run
    if run.waiting:
        say(kept, run, "")
    with inside(run, shard_index=leg.shard.index):
        end, seconds = _walked(leg)
    if end is End.WALKED and seconds is None:
        _complete(leg)
    elif end is End.WALKED:
        _hand_over(leg, delay=seconds or 0.0)
    elif end is End.OUT_OF_TIME:
        _hand_over(leg)
    else:
        _rest(leg)


def _walked(leg: Leg) -> tuple[End, float | None]:
    """Walk to the end of the rows, then try again those that failed and are due."""
    try:
        end = failing.quarantine(leg) if _is_poisoned(leg.shard) else None
        end = end or loops.walk(leg)
        if end is not End.WALKED:
            return end, None
        early_end, seconds = failing.retry_rows(leg)
        return early_end or End.WALKED, seconds
    except Stopped:
        return End.STOPPED, None


def _is_poisoned(shard: Shard) -> bool:
    """Whether a row has killed its process while it was under suspicion."""
    has_killed = shard.suspect is not None and shard.suspect != shard.cursor
    return has_killed and shard.deaths > CAREFUL_FROM


def _complete(leg: Leg) -> None:
    """Commit that the shard is done; only then ask whether all are.

    In one transaction two shards could each see the other undone, and nobody would
    finalize.
    """
    failpoints.reached("shard.before_complete")
    if not leg.work.store.complete(leg.shard, leg.walked):
        raise LeaseLost(f"{leg.shard.run}[{leg.shard.index}]")
    failpoints.reached("shard.after_complete")
    finalize_if_done(leg.work.store, leg.shard.run)


def _hand_over(leg: Leg, delay: float = 0.0) -> None:
    """Let a successor go on where this leg stopped; half of what is left may become a
    shard of its own. `delay` is in seconds."""
    shard, run = leg.shard, leg.work.run
    # A process that is about to end has no time to look for the middle.
    split = None if leg.is_walked or stopping.asked() else half_of(leg)
    failpoints.reached("shard.before_release")
    made = leg.work.store.release(shard, leg.walked, split=split)
    failpoints.reached("shard.after_release")
    send(message_of(WALK, run, shard.index, shard.seq + 1, delay=delay))
    if made is not None:
        send_shards(run, [made])


def _rest(leg: Leg) -> None:
    """Give the lease back without a successor: whoever resumes the run makes one."""
    kept, shard = leg.work.store, leg.shard
    kept.release(shard, leg.walked)
    found = kept.load_run(shard.run)
    if found is None:
        return
    if found.state is RunState.RUNNING:
        # Resumed between our stop and our release, by someone who saw us at work.
        send(message_of(WALK, found, shard.index, shard.seq + 1))
    send_stopped(kept, shard.run)


def _repair(kept: Store, run_id: str, index: int, seq: int) -> None:
    """The lease was not to be had: do again what must follow from the stored state."""
    run = kept.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.FINALIZING:
        send_finalize(kept, run)
    send_stopped(kept, run_id)
    if run.state is not RunState.RUNNING:
        return
    shard = kept.load_shard(run_id, index)
    if shard is None or shard.state is ShardState.DONE:
        finalize_if_done(kept, run_id)
    elif shard.seq > seq:
        send(message_of(WALK, run, index, shard.seq, delay=_wait_of(kept, shard)))
        _send_new_shards(kept, run)
    else:
        raise SingularTaskFailure(
            f"Shard {index} of iteration {run_id} is held by another delivery; it is "
            "tried again in case that one dies."
        )


def _wait_of(kept: Store, shard: Shard) -> float:
    """Seconds until a row of the shard is due, if it waits for nothing else."""
    if not shard.is_walked:
        return 0.0
    due, seconds = kept.waiting_failures(shard.run, shard.index, limit=1)
    return 0.0 if due else seconds or 0.0


def _send_new_shards(kept: Store, run: Run) -> None:
    """Shards split off by a leg that died before it could enqueue them."""
    fresh = [
        shard
        for shard in kept.load_shards(run.id)
        if shard.state is ShardState.WAITING and shard.seq == 0 and shard.fence == 0
    ]
    if fresh:
        send_shards(run, fresh)


def send_shards(run: Run, shards: list[Shard]) -> None:
    """Enqueue the tasks of many shards, in as few requests as there can be."""
    send(*(message_of(WALK, run, shard.index, shard.seq) for shard in shards))


def send_watch(run: Run, shard: Shard) -> None:
    """Enqueue the task of a shard once more, under a name of its own, for when nobody
    can be walking any more: its holder may be dead, and its task used up."""
    wait = conf.settings().lease.total_seconds()
    if shard.deadline_at is not None:
        wait = max(wait, shard.deadline_at.timestamp() - clock.now())
    message = message_of(
        WALK, run, shard.index, shard.seq, delay=wait, renamed=run.generation
    )
    send(message)
