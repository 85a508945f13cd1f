"""How a queryset is cut into shards of about the same number of rows.

| what | how | exact |
|---|---|---|
| up to SMALL rows | one query reads all keys | yes |
| PostgreSQL | a sample, filtered by the queryset, ordered by the database | no |
| else, or a sample too small | a walk along the index, OFFSET by OFFSET | yes |

Where the walk takes too long it ends early: the rest is one shard, for now. A planner
that is killed begins anew, so it has to come to an end.

Equal widths between the smallest and the largest key are no method: real keys are
skewed. Wrong guesses heal, since a shard that runs out of time gives half of what is
left to a new one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cloudtask.iteration.bounds import Bounds

if TYPE_CHECKING:
    from django.db.models import QuerySet

SMALL = 500  # keys; so few are one shard unless the caller wants more
MAX_SHARDS = 256
ROWS_A_SHARD = 20_000  # when nothing is known about the time of a row
SAMPLED_PAGES = 1024  # about 8 MB, read in some 30 ms
SAMPLED_ROWS = 8192
UNKNOWN_DENSITY = 60.0  # rows a page of a table that was never analyzed
WALK_TIME = 60.0  # seconds that a walk may take
ENOUGH = 24  # sampled keys a shard; fewer make the shards too uneven


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard to be, and about how many rows lie in it."""

    bounds: Bounds
    expected: int


@dataclass(frozen=True, slots=True)
class Plan:
    pieces: tuple[Piece, ...]
    total: int


def plan(
    queryset: QuerySet[Any],
    shards: int | None,
    *,
    include_new: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Cut the rows that `queryset` has now into `shards` pieces, or as many as fit.

    Rows that are added later lie in no piece, unless `include_new` leaves the last one
    open. An empty queryset has no pieces.
    """
    ordered = queryset.order_by("pk")
    keys = list(ordered.values_list("pk", flat=True)[: SMALL + 1])
    if not keys:
        return Plan((), 0)
    if len(keys) <= SMALL:
        return of_keys(keys, min(shards or 1, len(keys)), include_new=include_new)
    last = _last_key(queryset)
    cuts, total = _sampled(queryset, shards, last) or _walked(
        ordered, shards, last, clock
    )
    return _plan([*cuts, None if include_new else last], total)


def _last_key(queryset: QuerySet[Any]) -> Any:
    return queryset.order_by("-pk").values_list("pk", flat=True)[0]


def of_keys(keys: Sequence[Any], shards: int, *, include_new: bool) -> Plan:
    """Exact pieces of keys that are all known, in their order."""
    ends = [math.ceil(len(keys) * n / shards) for n in range(1, shards + 1)]
    highs = [keys[end - 1] for end in ends]
    if include_new:
        highs[-1] = None
    lows = [None, *highs[:-1]]
    sizes = [end - start for start, end in pairwise([0, *ends])]
    pieces = zip(lows, highs, sizes, strict=True)
    return Plan(
        tuple(Piece(Bounds(low, high), size) for low, high, size in pieces), len(keys)
    )


def _plan(highs: Sequence[Any], total: int) -> Plan:
    """Pieces that end at `highs`, which the database has ordered."""
    expected = max(1, round(total / len(highs)))
    bounds = [Bounds(low, high) for low, high in pairwise([None, *highs])]
    return Plan(tuple(Piece(one, expected) for one in bounds), total)


def shards_for(rows: int) -> int:
    """How many shards so many rows get when the caller does not say."""
    return max(1, min(MAX_SHARDS, math.ceil(rows / ROWS_A_SHARD)))


def _walked(
    ordered: QuerySet[Any],
    shards: int | None,
    last: Any,
    clock: Callable[[], float],
) -> tuple[list[Any], int]:
    """Every n-th key, by one step along the index after the other."""
    started = clock()
    frozen = Bounds(None, last)
    total = frozen.of(ordered).count()
    wanted = max(1, min(shards or shards_for(total), total))
    step = math.ceil(total / wanted)
    cuts: list[Any] = []
    while len(cuts) < wanted - 1 and clock() - started < WALK_TIME:
        above = Bounds(cuts[-1] if cuts else None, last).of(ordered)
        found = list(above.values_list("pk", flat=True)[step - 1 : step])
        if not found:
            break
        cuts.extend(found)
    return cuts, total


def _sampled(
    queryset: QuerySet[Any], shards: int | None, last: Any
) -> tuple[list[Any], int] | None:
    """Quantiles of a sample, or None where there is none that is large enough."""
    from django.db import connections

    connection = connections[queryset.db]
    meta = queryset.model._meta
    if connection.vendor != "postgresql" or len(meta.pk_fields) > 1 or meta.parents:
        return None
    size = _size(connection, meta.db_table)
    if size is None:
        return None
    pages, density = size
    share = min(1.0, SAMPLED_PAGES / max(1, pages))
    # Rows of one page have neighbouring keys: a few of each say as much as all.
    thinning = min(1.0, SAMPLED_ROWS / max(1.0, pages * share * density))
    keys = _sample(queryset, connection, last, share, thinning)
    total = round(len(keys) / share / thinning)
    wanted = shards or shards_for(total)
    if len(keys) < wanted * ENOUGH:
        return None
    return [keys[len(keys) * n // wanted - 1] for n in range(1, wanted)], total


def _size(connection: Any, table: str) -> tuple[int, float] | None:
    """Pages of the table, from the file system since statistics may be old, and about
    how many rows lie in one. None for a view, and for a table in partitions."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_relation_size(oid) / current_setting('block_size')::bigint,"
            " CASE WHEN relpages > 0 AND reltuples > 0"
            " THEN reltuples / relpages ELSE %s END"
            " FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'r'",
            [UNKNOWN_DENSITY, connection.ops.quote_name(table)],
        )
        found = cursor.fetchone()
    return (int(found[0]), float(found[1])) if found else None


def _sample(
    queryset: QuerySet[Any],
    connection: Any,
    last: Any,
    share: float,
    thinning: float,
) -> list[Any]:
    """Keys up to `last` of a part of the rows in `share` of the pages, ordered by the
    database."""
    from django.db.models.expressions import RawSQL

    meta = queryset.model._meta
    quote = connection.ops.quote_name
    column, table = quote(meta.pk.column), quote(meta.db_table)
    sql = (
        f"SELECT {column} FROM {table}"  # noqa: S608  quoted names; values are parameters
        f" TABLESAMPLE SYSTEM (%s) WHERE random() < %s AND {column} <= %s"
    )
    values = [share * 100, thinning, meta.pk.get_db_prep_value(last, connection)]
    converters = [
        *connection.ops.get_db_converters(meta.pk.get_col(meta.db_table)),
        *meta.pk.get_db_converters(connection),
    ]
    if queryset.query.where or converters:
        chosen = queryset.filter(pk__in=RawSQL(sql, values)).order_by("pk")  # noqa: S611
        return list(chosen.values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} ORDER BY {column}", values)
        return [meta.pk.to_python(key) for (key,) in cursor.fetchall()]
