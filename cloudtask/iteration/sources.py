"""What a run walks: the rows of a queryset, or the items of a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cloudtask.iteration import planner
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner import Plan

if TYPE_CHECKING:
    from django.db.models import QuerySet


@dataclass(frozen=True, slots=True)
class Page:
    """Values in the order of their keys; `key_at(place)` is the key of one."""

    values: Sequence[Any]
    key_at: Callable[[int], Any]


class Source(Protocol):
    """What a run walks."""

    def plan(self, shards: int | None, *, include_new: bool) -> Plan:
        """Pieces of about the same size; see `planner`."""
        ...

    def page(self, bounds: Bounds, size: int) -> Page:
        """Up to `size` values within `bounds`, by key: one query."""
        ...

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """The values that are still there, by key."""
        ...


class QuerySetSource:
    """The rows of a queryset, by primary key."""

    def __init__(self, queryset: QuerySet[Any]) -> None:
        self.queryset = queryset

    def plan(self, shards: int | None, *, include_new: bool) -> Plan:
        return planner.plan(self.queryset, shards, include_new=include_new)

    def page(self, bounds: Bounds, size: int) -> Page:
        rows = list(bounds.of(self.queryset)[:size])
        return Page(rows, lambda place: rows[place].pk)

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return {row.pk: row for row in self.queryset.filter(pk__in=keys)}


class ListSource:
    """The items of `map()`; the key of an item is its place, counted from 1."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def plan(self, shards: int | None, *, include_new: bool) -> Plan:
        if not self.items:
            return Plan((), 0)
        places = range(1, len(self.items) + 1)
        wanted = shards or planner.shards_for(len(self.items))
        return planner.of_keys(places, min(wanted, len(self.items)), include_new=False)

    def page(self, bounds: Bounds, size: int) -> Page:
        low: int = bounds.low or 0
        high = len(self.items) if bounds.high is None else bounds.high
        values = self.items[low : min(high, low + size)]
        return Page(values, lambda place: low + place + 1)

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return {key: self.items[key - 1] for key in keys if key <= len(self.items)}
