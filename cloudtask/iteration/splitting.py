"""Giving away half of what is left of a shard."""

from __future__ import annotations

from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner import MAX_SHARDS
from cloudtask.iteration.runner import PAGE_MAX, Leg, text_of
from cloudtask.iteration.sources import QuerySetSource
from cloudtask.stores.runs import Shard

WORTH = 2 * PAGE_MAX  # rows; a smaller rest is walked sooner than it is split


def half_of(leg: Leg) -> Shard | None:
    """The upper half of the rows that `leg` leaves, as a shard to be; None when it is
    not worth a task.

    The estimate of the plan says how many rows are left. The key in the middle is found
    by a walk along the index, shorter and shorter if the estimate was too high.
    """
    source = leg.work.source
    if not isinstance(source, QuerySetSource):
        return None
    left = leg.shard.expected - (leg.done - leg.shard.done)
    if left < WORTH or leg.shard.index >= MAX_SHARDS:
        return None
    step = left // 2
    while step >= WORTH // 2:
        rows = Bounds(leg.cursor, leg.high).of(source.queryset)
        middle = list(rows.values_list("pk", flat=True)[step - 1 : step])
        if middle:
            return Shard(
                run=leg.shard.run,
                index=0,  # the store gives it the next one
                low=text_of(middle[0]),
                high=leg.shard.high,
                expected=left - step,
            )
        step //= 2
    return None
