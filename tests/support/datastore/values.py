"""How values of all types are ordered among one another.

Datastore compares the internal representation: null, then integers and times (both
are 64-bit integers, a time counts microseconds), booleans, text and bytes (both are
byte sequences), floats, points, keys. So 38 comes before 37.5. Values are equal only
when their types are.
"""

from __future__ import annotations

import math
from typing import Any

from tests.support.datastore import protos
from tests.support.datastore.errors import invalid
from tests.support.datastore.keys import Element

Rank = tuple[Any, ...]


def rank(value: protos.Value) -> Rank:
    """What sorts as `value` sorts."""
    kind = value.WhichOneof("value_type")
    if kind is None:
        invalid("A value has no type.")
    if kind not in RANKS:
        invalid(f"A {kind} cannot be compared.")
    return RANKS[kind](getattr(value, kind))


def rank_of_path(path: tuple[Element, ...]) -> Rank:
    return (6, path)


def _rank_of_time(moment: Any) -> Rank:
    return (1, moment.seconds * 1_000_000 + moment.nanos // 1000, 1)


def _rank_of_float(number: float) -> Rank:
    if math.isnan(number):
        return (4, 0, 0.0)
    return (4, 1, number)


def _rank_of_key(key: protos.Key) -> Rank:
    return rank_of_path(
        tuple(
            Element(step.kind, step.WhichOneof("id_type") == "name", step.id, step.name)
            for step in key.path
        )
    )


RANKS = {
    "null_value": lambda _: (0,),
    "integer_value": lambda number: (1, number, 0),
    "timestamp_value": _rank_of_time,
    "boolean_value": lambda flag: (2, flag),
    "blob_value": lambda blob: (3, blob, 0),
    "string_value": lambda text: (3, text.encode(), 1),
    "double_value": _rank_of_float,
    "geo_point_value": lambda point: (5, point.latitude, point.longitude),
    "key_value": _rank_of_key,
}
