"""Giving away half of what is left of a shard."""

from __future__ import annotations

from cloudtask.iteration.keys import text_of
from cloudtask.iteration.legs import Leg
from cloudtask.iteration.pages import PAGE_MAX
from cloudtask.iteration.planner import MAX_SHARDS
from cloudtask.runs import Shard, ShardState

WORTH = 2 * PAGE_MAX  # rows; of fast ones a smaller rest is not worth a task
MOST_SPLITS = 4 * MAX_SHARDS  # a run never has more shards, done or not


def half_of(leg: Leg) -> Shard | None:
    """The upper half of the rows that `leg` leaves, as a shard to be; None when it is
    not worth a task, or when as many shards are at work as may be."""
    walked = leg.settled - (leg.shard.done + leg.shard.failed + leg.shard.skipped)
    if not walked:
        return None
    # Estimates err; a leg that was full of rows probably leaves as many.
    left = max(leg.shard.expected - leg.settled, walked)
    if left < _worth(leg, walked) or not _has_room(leg):
        return None
    return _cut(leg, left)


def _worth(leg: Leg, walked: int) -> float:
    """Rows that keep a task busy for as long as it may run; WORTH if that is less."""
    took = max(leg.work.clock() - leg.started, 1e-6)
    return max(2.0, min(WORTH, walked * leg.work.budget / took))


def _has_room(leg: Leg) -> bool:
    shards = leg.work.store.load_shards(leg.shard.run)
    undone = sum(shard.state is not ShardState.DONE for shard in shards)
    allowed = leg.work.description.shards or MAX_SHARDS
    return undone < allowed and len(shards) < MOST_SPLITS


def _cut(leg: Leg, left: int) -> Shard | None:
    """The key in the middle is found by a walk along the index, shorter and shorter if
    fewer rows are left than was thought."""
    step = left // 2
    while step >= 1:
        middle = leg.work.source.key_after(leg.bounds, step)
        if middle is not None and text_of(middle) != leg.shard.high:
            return Shard(
                run=leg.shard.run,
                index=0,  # the store gives it the next one
                low=text_of(middle),
                high=leg.shard.high,
                expected=left - step,
            )
        step //= 4
    return None
