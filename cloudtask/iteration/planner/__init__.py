"""Cuts a queryset into shards of about the same number of rows.

| what | how | exact |
|---|---|---|
| up to SMALL rows | reads all keys | yes |
| UUIDv4, no filter | equal widths: such keys are spread evenly | no |
| PostgreSQL | a sample, filtered by the queryset, ordered by the database | no |
| Datastore | the property by which it scatters a few entities | no |
| else, or a sample too small | a walk along the index, OFFSET by OFFSET | yes |
| few rows of a large table | the whole table is cut, by the methods above | no |

The first rows of a filtered queryset are read by ranges of the table's keys, each as
large as is quick. So no statement has to look at the whole table, and the plan knows
which share of the table the filter leaves.

A walk that takes long hands over its part of the plan, whose shards start. A successor
goes on from there.

Equal widths between the smallest and the largest key suit random UUIDs alone: other
keys are skewed. Wrong estimates correct themselves, since a shard that runs out of time
gives half of its remaining rows to a new shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from django.db import Error

from cloudtask.clock import stopwatch
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner import estimates, pieces
from cloudtask.iteration.planner.estimates import is_datastore
from cloudtask.iteration.planner.pieces import (
    MAX_SHARDS,
    IsOver,
    Piece,
    Plan,
    Rest,
    keys_of,
    never,
    of_keys,
    of_quantiles,
    rest_of,
    shards_for,
)
from cloudtask.stores.transactions import is_statement_timeout

if TYPE_CHECKING:
    from django.db.models import QuerySet

__all__ = [
    "MAX_SHARDS",
    "IsOver",
    "Piece",
    "Plan",
    "Rest",
    "is_datastore",
    "is_filtered",
    "never",
    "of_keys",
    "plan",
    "rest_of",
    "shards_for",
    "table_of",
]

SMALL = 500  # keys; up to so many are one shard unless the caller wants more
SLOW = 1.0  # seconds; if the first keys take longer, a count may take very long
FIRST_STRIDE = 2_000  # keys of the table that the first query looks at
QUICK = 0.25  # seconds; a query that takes less may look at four times as many keys
PROBING = 10.0  # seconds after which the first rows are not looked for any more
SPARSE = 50  # keys of the table for each row of a queryset whose table is cut instead

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class First:
    """The first keys of a queryset. `is_all` tells that there are no others. The query
    looked at `looked_at` keys of the table, the last ranges had `stride` of them."""

    keys: list[Any] = field(default_factory=list)
    is_all: bool = False
    looked_at: int = 0
    stride: int | None = None
    took: float = 0.0

    @property
    def share(self) -> float:
        """The share of the table's rows that are in the queryset, as far as is
        known."""
        return len(self.keys) / max(1, self.looked_at)

    @property
    def is_sparse(self) -> bool:
        """Whether a query for the next rows may have to look at very many others."""
        if self.stride is None:
            return False
        return self.looked_at > SPARSE * max(1, len(self.keys))


def plan(
    queryset: QuerySet[Any],
    shards: int | None,
    *,
    include_new: bool,
    rest: Rest | None = None,
    is_over: IsOver = never,
    clock: Clock | None = None,
) -> Plan:
    """Cut the rows that `queryset` has now into `shards` pieces, or as many as fit; or
    the `rest` of them. Ends early, with a rest, when `is_over`.

    Rows that are added later are in no piece, unless `include_new` leaves the last one
    open. An empty queryset has no pieces.
    """
    if rest is not None:
        return _of_rest(queryset, rest, shards, include_new, is_over)
    first = _first_keys(queryset, is_over, clock or stopwatch())
    if first.is_all:
        return _of_all(first, shards, include_new)
    if first.is_sparse:
        return _of_table(queryset, first, shards, include_new, is_over)
    try:
        return _of_many(queryset, first, shards, include_new, is_over)
    except Error as error:
        if first.stride is None or not is_statement_timeout(error):
            raise
        return _of_table(queryset, first, shards, include_new, is_over)


def _of_all(first: First, shards: int | None, include_new: bool) -> Plan:
    keys = first.keys
    if not keys:
        return Plan((), 0)
    made = of_keys(keys, min(shards or 1, len(keys)), include_new=include_new)
    return replace(made, stride=first.stride if first.is_sparse else None)


def _of_many(
    queryset: QuerySet[Any],
    first: First,
    shards: int | None,
    include_new: bool,
    is_over: IsOver,
) -> Plan:
    last = _last_key(queryset)
    found = (
        estimates.by_uuids(queryset, shards, first.keys)
        or estimates.by_sample(queryset, shards, last)
        or estimates.by_scatter(queryset, shards)
    )
    if found is not None:
        cuts, total = found
        return of_quantiles(cuts, None if include_new else last, total)
    is_slow = first.took > SLOW
    return pieces.begin(queryset, shards, last, include_new, is_over, is_slow)


def _of_table(
    queryset: QuerySet[Any],
    first: First,
    shards: int | None,
    include_new: bool,
    is_over: IsOver,
) -> Plan:
    """The plan of the whole table, with the share of the rows that the queryset has."""
    made = plan(table_of(queryset), shards, include_new=include_new, is_over=is_over)
    return _shared(made, first.share, first.stride)


def _of_rest(
    queryset: QuerySet[Any],
    rest: Rest,
    shards: int | None,
    include_new: bool,
    is_over: IsOver,
) -> Plan:
    if rest.share is None:
        return pieces.go_on(queryset, rest, shards, include_new, is_over)
    table = table_of(queryset)
    made = pieces.go_on(table, rest, shards, include_new, is_over)
    return _shared(made, rest.share, rest.stride)


def _shared(made: Plan, share: float, stride: int | None) -> Plan:
    """A plan of a table as one of a queryset that has a share of its rows."""
    shared = tuple(
        replace(piece, expected=math.ceil(piece.expected * share))
        for piece in made.pieces
    )
    return Plan(
        shared,
        sum(piece.expected for piece in shared),
        replace(made.rest, share=share, stride=stride) if made.rest else None,
        is_estimated=True,
        stride=stride,
    )


def is_filtered(queryset: QuerySet[Any]) -> bool:
    """Whether the queryset may leave out rows of its table."""
    query = queryset.query
    joined = [alias for alias, count in query.alias_refcount.items() if count]
    return bool(query.where) or query.group_by is not None or len(joined) > 1


def table_of(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """All rows of the table of a queryset."""
    table: QuerySet[Any] = queryset.model._base_manager.using(queryset.db)
    return table


def _first_keys(queryset: QuerySet[Any], is_over: IsOver, clock: Clock) -> First:
    """The first SMALL + 1 keys, or fewer if they are too far apart."""
    started = clock()
    if not is_filtered(queryset) or is_datastore(queryset):
        keys = list(keys_of(queryset)[: SMALL + 1])
        return First(keys, is_all=len(keys) <= SMALL, took=clock() - started)
    first = First(stride=FIRST_STRIDE)
    above: Any = None
    while len(first.keys) <= SMALL:
        if first.looked_at and (is_over() or clock() - started > PROBING):
            break
        before = clock()
        try:
            end, keys = _in_stride(queryset, above, first)
        except Error as error:
            if first.stride == 1 or not is_statement_timeout(error):
                raise
            first = replace(first, stride=max(1, (first.stride or 1) // 4))
            continue
        first = replace(first, keys=[*first.keys, *keys])
        if end is None and len(first.keys) <= SMALL:
            return replace(first, is_all=True, took=clock() - started)
        first = _further(first, is_quick=clock() - before < QUICK)
        above = end
    return replace(first, took=clock() - started)


def _in_stride(
    queryset: QuerySet[Any], above: Any, first: First
) -> tuple[Any, list[Any]]:
    """The key of the table at which the range ends, None at its end, and the keys of
    the queryset in it."""
    table = Bounds(above, None).of(keys_of(table_of(queryset)))
    stride = first.stride or 1
    found = list(table[stride - 1 : stride])
    end = found[0] if found else None
    keys = Bounds(above, end).of(keys_of(queryset))
    return end, list(keys[: SMALL + 1 - len(first.keys)])


def _further(first: First, *, is_quick: bool) -> First:
    """`first` after one more range."""
    stride = first.stride or 1
    return replace(
        first,
        looked_at=first.looked_at + stride,
        stride=stride * 4 if is_quick else stride,
    )


def _last_key(queryset: QuerySet[Any]) -> Any:
    """The key up to which the run goes. None, no end, in Datastore, which has no
    descending index of keys, and whose new keys are not the largest."""
    if is_datastore(queryset):
        return None
    return queryset.order_by("-pk").values_list("pk", flat=True)[0]
