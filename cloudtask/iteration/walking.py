"""A shard, walked leg by leg: each delivery walks for as long as it may."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cloudtask import conf, failpoints, registry
from cloudtask.exceptions import SingularTaskFailure
from cloudtask.iteration import stopping
from cloudtask.iteration.description import Description, called
from cloudtask.iteration.finalizing import budget, finalize_if_done, send_finalize
from cloudtask.iteration.messages import message_of, send, step
from cloudtask.iteration.runner import ROW_ATTEMPTS, End, Leg, Stopped, Work
from cloudtask.iteration.running import inside, readable
from cloudtask.iteration.sources import Source
from cloudtask.iteration.splitting import half_of
from cloudtask.registry import Definition
from cloudtask.stores import Store, store
from cloudtask.stores.runs import LeaseLost, Run, RunState, Shard, ShardState

logger = logging.getLogger("cloudtask")


def walk(run_id: str, index: int, seq: int) -> None:
    """Walk a shard for as long as one delivery may, then hand over or complete it."""
    kept = store()
    failpoints.reached("shard.before_lease")
    shard = kept.acquire(run_id, index, seq, lease=conf.settings().lease)
    failpoints.reached("shard.after_lease")
    if shard is None:
        _repair(kept, run_id, index, seq)
        return
    run = kept.load_run(run_id)
    work = None if run is None else readable(kept, run)
    if run is None or work is None:
        kept.release(shard, Leg.untouched(shard))
        return
    try:
        _leg(kept, run, shard, *work)
    except LeaseLost:
        logger.info("Shard %d of iteration %s went to another delivery.", index, run_id)


def _leg(
    kept: Store, run: Run, shard: Shard, description: Description, source: Source
) -> None:
    leg = Leg(_work(kept, run, description, source), shard)
    with inside(run, shard_index=shard.index):
        end, seconds = _walked(leg)
    if end is End.WALKED and seconds is None:
        _complete(kept, run, shard, leg)
    elif end is End.WALKED:
        _hand_over(kept, run, shard, leg, delay=seconds or 0.0)
    elif end is End.OUT_OF_TIME:
        _hand_over(kept, run, shard, leg)
    else:
        _rest(kept, run, shard, leg)


def _walked(leg: Leg) -> tuple[End, float | None]:
    """Walk to the end of the rows, then try again those that failed and are due."""
    try:
        if leg.shard.deaths and leg.shard.suspect is not None:
            leg.quarantine()
        end = leg.walk()
        if end is not End.WALKED:
            return end, None
        early_end, seconds = leg.retry_rows()
        return early_end or End.WALKED, seconds
    except Stopped:
        return End.STOPPED, None


def _work(kept: Store, run: Run, description: Description, source: Source) -> Work:
    definition = registry.find(run.task)
    stopping.watch()
    return Work(
        store=kept,
        run=run,
        description=description,
        source=source,
        function=_callback(definition, description),
        row_attempts=definition.options.max_attempts or ROW_ATTEMPTS,
        lease=conf.settings().lease,
        budget=budget(definition.options).total_seconds(),
    )


def _callback(definition: Definition, description: Description) -> Callable[[Any], Any]:
    function = called(definition.function)
    args, kwargs = description.args, description.kwargs
    if not args and not kwargs:
        return function
    return lambda value: function(value, *args, **kwargs)


def _complete(kept: Store, run: Run, shard: Shard, leg: Leg) -> None:
    """Commit that the shard is done; only then ask whether all are.

    In one transaction two shards could each see the other undone, and nobody would
    finalize.
    """
    failpoints.reached("shard.before_complete")
    if not kept.complete(shard, leg.walked):
        raise LeaseLost(f"{shard.run}[{shard.index}]")
    failpoints.reached("shard.after_complete")
    finalize_if_done(kept, run.id)


def _hand_over(
    kept: Store, run: Run, shard: Shard, leg: Leg, delay: float = 0.0
) -> None:
    """Let a successor go on where this leg stopped; half of what is left may become a
    shard of its own."""
    split = None if leg.is_walked else half_of(leg)
    failpoints.reached("shard.before_release")
    made = kept.release(shard, leg.walked, split=split)
    failpoints.reached("shard.after_release")
    send(message_of(WALK, run, shard.index, shard.seq + 1, delay=delay))
    if made is not None:
        send_shards(run, [made])


def _rest(kept: Store, run: Run, shard: Shard, leg: Leg) -> None:
    """Give the lease back without a successor: whoever resumes the run makes one."""
    kept.release(shard, leg.walked)
    found = kept.load_run(run.id)
    if found is not None and found.state is RunState.RUNNING:
        # Resumed between our stop and our release, by someone who saw us at work.
        send(message_of(WALK, run, shard.index, shard.seq + 1))


def _repair(kept: Store, run_id: str, index: int, seq: int) -> None:
    """The lease was not to be had: do again what must follow from the stored state."""
    run = kept.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.FINALIZING:
        send_finalize(kept, run)
    if run.state is not RunState.RUNNING:
        return
    shard = kept.load_shard(run_id, index)
    if shard is None or shard.state is ShardState.DONE:
        finalize_if_done(kept, run_id)
    elif shard.seq > seq:
        _, seconds = kept.waiting_failures(run_id, index, limit=1)
        delay = seconds or 0.0 if shard.is_walked else 0.0
        send(message_of(WALK, run, index, shard.seq, delay=delay))
        _send_new_shards(kept, run)
    else:
        raise SingularTaskFailure(
            f"Shard {index} of iteration {run_id} is held by another delivery; it is "
            "tried again in case that one dies."
        )


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


WALK = step(walk)
