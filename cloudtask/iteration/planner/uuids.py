"""Equal widths, for tables whose keys are random UUIDs.

Whether they are, and in which order the database has them, is never taken for granted:
the first keys must lie evenly and in the order that is assumed; near each place where
the table is to be cut there must be a key; and the database orders those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cloudtask.iteration.planner.pieces import shards_for

if TYPE_CHECKING:
    from django.db.models import QuerySet

LEAST = 200  # keys from which the number of rows is estimated, to some 7 %
FARTHEST = 40  # mean gaps to the next key; random keys never leave so many free
_V4 = 0x4000_8000_0000_0000_0000  # version and variant of a random UUID


@dataclass(frozen=True, slots=True)
class Order:
    """An order of UUIDs: where in it one stands, from 0 to 1, and which one stands at
    a place."""

    place_of: Callable[[UUID], float]
    at: Callable[[float], UUID]


PLAIN = Order(
    lambda key: key.int / 2**128,
    lambda place: UUID(int=int(place * 2**32) << 96 | _V4),
)
# MariaDB compares its own type, for random ones, from the last group to the first:
# https://mariadb.com/kb/en/uuid-data-type/
NODE_FIRST = Order(
    lambda key: key.node / 2**48,
    lambda place: UUID(int=_V4 | int(place * 2**48)),
)


def cut(
    queryset: QuerySet[Any], shards: int | None, keys: Sequence[Any]
) -> tuple[list[Any], int] | None:
    """Keys between shards and about how many rows there are; None unless all keys are
    random UUIDs, as far as `keys`, the first ones, and a few others tell."""
    if not _is_whole_table_by_uuid(queryset) or len(keys) < LEAST:
        return None
    order = _order_of(queryset.db)
    places = [order.place_of(key) for key in keys]
    if places != sorted(places) or not all(map(_is_random, keys)):
        return None
    total = round(len(keys) / places[-1])
    wanted = shards or shards_for(total)
    if _has_time_ordered(queryset):
        return None
    found = [_near(queryset, order, n / wanted, total) for n in range(1, wanted)]
    if None in found:
        return None
    # The places were right by our idea of the order; the cuts are by the database's.
    ordered = queryset.filter(pk__in=found).order_by("pk")
    return list(ordered.values_list("pk", flat=True)), total


def _is_whole_table_by_uuid(queryset: QuerySet[Any]) -> bool:
    from django.db.models import UUIDField

    query = queryset.query
    is_filtered = query.where or query.group_by is not None or query.extra_tables
    return type(queryset.model._meta.pk) is UUIDField and not is_filtered


def _order_of(alias: str) -> Order:
    from django.db import connections

    connection = connections[alias]
    is_mariadb = connection.vendor == "mysql" and bool(
        connection.features.has_native_uuid_field
    )
    return NODE_FIRST if is_mariadb else PLAIN


def _is_random(key: UUID) -> bool:
    return key.version == 4


def _near(
    queryset: QuerySet[Any], order: Order, place: float, total: int
) -> UUID | None:
    """The first key behind `place`; None when it is too far for random keys."""
    start = order.at(place)
    above = queryset.filter(pk__gt=start).order_by("pk")
    key: UUID | None = above.values_list("pk", flat=True).first()
    if key is None or not _is_random(key):
        return None
    gap = order.place_of(key) - order.place_of(start)
    return key if 0 <= gap * total <= FARTHEST else None


def _has_time_ordered(queryset: QuerySet[Any]) -> bool:
    """Whether the keys that are made these days begin with their time: such a table
    has one more, and much nearer, key below today's than random ones leave there."""
    today = UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | 2 << 62)
    below = queryset.filter(pk__lte=today).order_by("-pk")
    key = below.values_list("pk", flat=True).first()
    return key is not None and not _is_random(key)
