"""Filters: which entities a query finds.

A property with many values satisfies an equality by any of them, and all the
inequalities on it together by one of them, as an index scan would.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.support.datastore import protos
from tests.support.datastore.entities import KEY, Record
from tests.support.datastore.errors import invalid
from tests.support.datastore.keys import (
    Key,
    Partition,
    read_key,
    read_partition,
    require_complete,
)
from tests.support.datastore.limits import Limits
from tests.support.datastore.values import Rank, rank

MOST_UNWANTED = 10
Operator = protos.PropertyFilter.Operator
RANGES: dict[int, Callable[[Rank, Rank], bool]] = {
    Operator.LESS_THAN: operator.lt,
    Operator.LESS_THAN_OR_EQUAL: operator.le,
    Operator.GREATER_THAN: operator.gt,
    Operator.GREATER_THAN_OR_EQUAL: operator.ge,
}


@dataclass(frozen=True)
class Within:
    """An ancestor filter."""

    ancestor: Key

    def matches(self, record: Record) -> bool:
        return record.key.is_within(self.ancestor)


@dataclass(frozen=True)
class Comparison:
    """One property against one value, or against several for IN and NOT_IN."""

    name: str
    op: int
    ranks: tuple[Rank, ...]

    @property
    def is_equality(self) -> bool:
        return self.op in (Operator.EQUAL, Operator.IN)

    def holds(self, value: Rank) -> bool:
        if self.op in RANGES:
            return RANGES[self.op](value, self.ranks[0])
        return (value in self.ranks) == self.is_equality

    def matches(self, record: Record) -> bool:
        return any(self.holds(rank(value)) for value in record.indexed(self.name))


@dataclass(frozen=True)
class AllOf:
    parts: tuple[Condition, ...] = ()

    def matches(self, record: Record) -> bool:
        return all(part.matches(record) for part in self._tests)

    @cached_property
    def _tests(self) -> list[Condition | Joint]:
        ranges: dict[str, list[Comparison]] = defaultdict(list)
        tests: list[Condition | Joint] = []
        for part in self.parts:
            if isinstance(part, Comparison) and part.op in RANGES:
                ranges[part.name].append(part)
            else:
                tests.append(part)
        return tests + [Joint(name, tuple(parts)) for name, parts in ranges.items()]


@dataclass(frozen=True)
class Joint:
    """The inequalities on one property: one value must satisfy them all."""

    name: str
    parts: tuple[Comparison, ...]

    def matches(self, record: Record) -> bool:
        return any(
            all(part.holds(value) for part in self.parts)
            for value in map(rank, record.indexed(self.name))
        )


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]

    def matches(self, record: Record) -> bool:
        return any(part.matches(record) for part in self.parts)


Condition = Within | Comparison | AllOf | AnyOf


def comparisons(condition: Condition) -> Iterator[Comparison]:
    if isinstance(condition, Comparison):
        yield condition
    elif isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from comparisons(part)


def ancestor_of(condition: Condition) -> Key | None:
    """The ancestor that every result must have, if there is one."""
    parts = condition.parts if isinstance(condition, AllOf) else (condition,)
    for part in parts:
        if isinstance(part, Within):
            return part.ancestor
    return None


def read_filter(message: protos.Filter, home: Partition, limits: Limits) -> Condition:
    kind = message.WhichOneof("filter_type")
    if kind == "property_filter":
        return _read_comparison(message.property_filter, home, limits)
    if kind is None:
        invalid("A filter is empty.")
    composite = message.composite_filter
    parts = tuple(read_filter(part, home, limits) for part in composite.filters)
    if not parts:
        invalid("A composite filter has no filters.")
    if composite.op == protos.CompositeFilter.Operator.AND:
        return AllOf(parts)
    if composite.op == protos.CompositeFilter.Operator.OR:
        return AnyOf(parts)
    invalid("A composite filter has no operator.")


def _read_comparison(
    message: protos.PropertyFilter, home: Partition, limits: Limits
) -> Comparison | Within:
    name, op = message.property.name, message.op
    if op == Operator.OPERATOR_UNSPECIFIED:
        invalid(f"The filter on {name!r} has no operator.")
    values = [message.value]
    if op in (Operator.IN, Operator.NOT_IN):
        values = list(message.value.array_value.values)
        if not values:
            invalid(f"IN and NOT_IN on {name!r} need a list with values.")
    if op == Operator.NOT_IN and len(values) > MOST_UNWANTED:
        invalid(f"NOT_IN takes at most {MOST_UNWANTED} values.")
    if name != KEY and op != Operator.HAS_ANCESTOR:
        return Comparison(name, op, tuple(map(rank, values)))
    keys = [_read_key_value(value, home, limits) for value in values]
    if op == Operator.HAS_ANCESTOR:
        return Within(keys[0])
    return Comparison(name, op, tuple(map(rank, values)))


def _read_key_value(value: protos.Value, home: Partition, limits: Limits) -> Key:
    if not value.HasField("key_value"):
        invalid("A filter on __key__ needs a key.")
    partition = read_partition(value.key_value.partition_id, home)
    if partition != home:
        invalid(
            f"The key is in namespace {partition.namespace!r}, the query in"
            f" {home.namespace!r}."
        )
    return require_complete(read_key(value.key_value, home, limits))
