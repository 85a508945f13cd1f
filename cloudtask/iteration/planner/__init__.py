"""How a queryset is cut into shards of about the same number of rows.

| what | how | exact |
|---|---|---|
| up to SMALL rows | one query reads all keys | yes |
| UUIDv4, no filter | equal widths: such keys are spread evenly | no |
| PostgreSQL | a sample, filtered by the queryset, ordered by the database | no |
| Datastore | the property by which it scatters a few entities | no |
| else, or a sample too small | a walk along the index, OFFSET by OFFSET | yes |

A walk that takes long hands over what it has, and its shards start; a successor goes on
where it stopped.

Of other keys equal widths between the smallest and the largest are no method: real keys
are skewed. Wrong guesses heal, since a shard that runs out of time gives half of what
is left to a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloudtask.iteration.planner import index_walk, sample, scatter, uuids
from cloudtask.iteration.planner.pieces import (
    MAX_SHARDS,
    IsOver,
    Piece,
    Plan,
    Rest,
    never,
    of_keys,
    of_quantiles,
    rest_of,
    shards_for,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet

__all__ = [
    "MAX_SHARDS",
    "IsOver",
    "Piece",
    "Plan",
    "Rest",
    "never",
    "of_keys",
    "plan",
    "rest_of",
    "shards_for",
]

SMALL = 500  # keys; so few are one shard unless the caller wants more
SLOW = 1.0  # seconds; where the first keys take longer, a count might take for ever


def plan(
    queryset: QuerySet[Any],
    shards: int | None,
    *,
    include_new: bool,
    rest: Rest | None = None,
    is_over: IsOver = never,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Cut the rows that `queryset` has now into `shards` pieces, or as many as fit; or
    what `rest` says is left of them. Ends early, with a rest, when `is_over`.

    Rows that are added later lie in no piece, unless `include_new` leaves the last one
    open. An empty queryset has no pieces.
    """
    if rest is not None:
        return index_walk.go_on(queryset, rest, shards, include_new, is_over)
    started = clock()
    keys = list(queryset.order_by("pk").values_list("pk", flat=True)[: SMALL + 1])
    is_slow = clock() - started > SLOW
    if not keys:
        return Plan((), 0)
    if len(keys) <= SMALL:
        return of_keys(keys, min(shards or 1, len(keys)), include_new=include_new)
    last = _last_key(queryset)
    found = (
        uuids.cut(queryset, shards, keys)
        or sample.cut(queryset, shards, last)
        or scatter.cut(queryset, shards)
    )
    if found is not None:
        cuts, total = found
        return of_quantiles(cuts, None if include_new else last, total)
    return index_walk.begin(queryset, shards, last, include_new, is_over, is_slow)


def _last_key(queryset: QuerySet[Any]) -> Any:
    """Up to where the walk goes; None, no end, in Datastore, which has no index of keys
    that descends, and whose new keys are not the largest."""
    if scatter.is_datastore(queryset):
        return None
    return queryset.order_by("-pk").values_list("pk", flat=True)[0]
