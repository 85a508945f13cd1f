"""Cursors: places between the results of one query.

A cursor holds the values that its query sorts by, and the key, so that it still has
its place after the entity was changed or deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from tests.support.datastore import protos
from tests.support.datastore.errors import invalid
from tests.support.datastore.values import Rank, rank

BEFORE_ALL = b"\x00"
AFTER = b"\x01"


@dataclass(frozen=True, slots=True)
class Descending:
    """Sorts the other way round."""

    rank: Rank

    def __lt__(self, other: Descending) -> bool:
        return other.rank < self.rank


Place = tuple[Rank | Descending, ...]


@dataclass(frozen=True)
class Cursor:
    """After `place`, or before everything when it is None."""

    place: Place | None
    text: bytes

    def is_passed_by(self, place: Place) -> bool:
        return self.place is None or self.place < place


def place_of(values: Sequence[protos.Value], orders: Sequence[Any]) -> Place:
    ranks = [rank(value) for value in values]
    return tuple(
        Descending(position) if order.descending else position
        for position, order in zip(ranks, orders, strict=True)
    )


def write_cursor(values: Sequence[protos.Value] | None) -> bytes:
    """The cursor after a result with these sorted-by values; None: before all."""
    if values is None:
        return BEFORE_ALL
    message = protos.Value()
    message.array_value.values.extend(values)
    return AFTER + message.SerializeToString(deterministic=True)


def read_cursor(cursor: bytes, orders: Sequence[Any]) -> Cursor | None:
    if not cursor:
        return None
    if cursor == BEFORE_ALL:
        return Cursor(None, cursor)
    try:
        values = protos.Value.FromString(cursor[1:]).array_value.values
    except DecodeError:
        values = []
    if cursor[:1] != AFTER or len(values) != len(orders):
        invalid("The cursor is not one of this query's.")
    return Cursor(place_of(values, orders), cursor)
