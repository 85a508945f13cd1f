"""Aggregations over the rows of a query: count, sum, average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.datastore import protos
from tests.support.datastore.errors import invalid
from tests.support.datastore.queries import Row

MOST = 5
LARGEST = 2**63


def aggregate(aggregations: Sequence[Any], rows: list[Row]) -> protos.AggregationResult:
    """One value for each of `aggregations`, under its alias."""
    if not 1 <= len(aggregations) <= MOST:
        invalid(f"An aggregation query has 1 to {MOST} aggregations.")
    result = protos.AggregationResult()
    unnamed = 0
    for aggregation in aggregations:
        alias = aggregation.alias
        if not alias:
            unnamed += 1
            alias = f"property_{unnamed}"
        if alias in result.aggregate_properties:
            invalid(f"Two aggregations are called {alias!r}.")
        result.aggregate_properties[alias].CopyFrom(_value(aggregation, rows))
    return result


def _value(aggregation: Any, rows: list[Row]) -> protos.Value:
    kind = aggregation.WhichOneof("operator")
    if kind == "count":
        return protos.Value(integer_value=_count(aggregation.count, rows))
    if kind is None:
        invalid("An aggregation has no operator.")
    name = getattr(aggregation, kind).property.name
    numbers = list(_numbers(name, rows))
    return _sum(numbers) if kind == "sum" else _average(numbers)


def _count(count: Any, rows: list[Row]) -> int:
    return min(len(rows), count.up_to.value) if count.HasField("up_to") else len(rows)


def _numbers(name: str, rows: list[Row]) -> Iterator[int | float]:
    for row in rows:
        for value in row.record.indexed(name):
            kind = value.WhichOneof("value_type")
            if kind in ("integer_value", "double_value"):
                yield getattr(value, kind)


def _sum(numbers: list[int | float]) -> protos.Value:
    total = sum(numbers)
    if isinstance(total, int) and -LARGEST <= total < LARGEST:
        return protos.Value(integer_value=total)
    return protos.Value(double_value=total)


def _average(numbers: list[int | float]) -> protos.Value:
    if not numbers:
        return protos.Value(null_value=0)
    return protos.Value(double_value=math.fsum(numbers) / len(numbers))
