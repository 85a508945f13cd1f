"""What a run walks: the rows of a queryset, or the items of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from cloudtask import codec
from cloudtask.iteration import planner
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner import IsOver, Plan, Rest, never

if TYPE_CHECKING:
    from django.db.models import QuerySet


# Keys in one query. Of several columns SQLite gets a condition each, and allows a
# thousand of those.
AT_ONCE, SEVERAL_AT_ONCE = 500, 100


@dataclass(frozen=True, slots=True)
class Page:
    """Values in the order of their keys, and the keys, as they were before a callback
    could change or delete anything."""

    values: Sequence[Any]
    keys: Sequence[Any]


class Source(Protocol):
    """What a run walks."""

    def plan(
        self,
        shards: int | None,
        *,
        include_new: bool,
        rest: Rest | None = None,
        is_over: IsOver = never,
    ) -> Plan:
        """Pieces of about the same size, of all or of a `rest`; see `planner`."""
        ...

    def page(self, bounds: Bounds, size: int) -> Page:
        """Up to `size` values within `bounds`, by key: one query."""
        ...

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        """The key of row number `rows` within `bounds`; None when there are fewer."""
        ...

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """The values that are still there, by key."""
        ...


class QuerySetSource:
    """The rows of a queryset, by primary key."""

    def __init__(self, queryset: QuerySet[Any]) -> None:
        self.queryset = queryset
        meta = queryset.model._meta
        is_plain = len(meta.pk_fields) == 1
        # A callback that deletes its row, or saves a copy, changes the instance's key.
        self.key = attrgetter(meta.pk.attname if is_plain else "pk")
        self.at_once = AT_ONCE if is_plain else SEVERAL_AT_ONCE

    def plan(
        self,
        shards: int | None,
        *,
        include_new: bool,
        rest: Rest | None = None,
        is_over: IsOver = never,
    ) -> Plan:
        return planner.plan(
            self.queryset, shards, include_new=include_new, rest=rest, is_over=is_over
        )

    def page(self, bounds: Bounds, size: int) -> Page:
        rows = list(bounds.of(self.queryset)[:size])
        return Page(rows, list(map(self.key, rows)))

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        keys = bounds.of(self.queryset).values_list("pk", flat=True)
        found = list(keys[rows - 1 : rows])
        return found[0] if found else None

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return {
            self.key(row): row
            for start in range(0, len(keys), self.at_once)
            for row in self.queryset.filter(pk__in=keys[start : start + self.at_once])
        }


class ListSource:
    """The items of `map()`, encoded; the key of an item is its place, from 1."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.items: Sequence[Any] = codec.loads(encoded)

    def plan(
        self,
        shards: int | None,
        *,
        include_new: bool,
        rest: Rest | None = None,
        is_over: IsOver = never,
    ) -> Plan:
        if not self.items:
            return Plan((), 0)
        places = range(1, len(self.items) + 1)
        wanted = shards or planner.shards_for(len(self.items))
        return planner.of_keys(places, min(wanted, len(self.items)), include_new=False)

    def _places(self, bounds: Bounds) -> range:
        high = len(self.items) if bounds.high is None else bounds.high
        return range((bounds.low or 0) + 1, high + 1)

    def page(self, bounds: Bounds, size: int) -> Page:
        places = self._places(bounds)[:size]
        values = self.items[places.start - 1 : places.stop - 1]
        return Page(values, places)

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        places = self._places(bounds)
        return places[rows - 1] if rows <= len(places) else None

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        # Decoded anew: a first try may have changed its item.
        fresh = codec.loads(self.encoded)
        return {key: fresh[key - 1] for key in keys if key <= len(fresh)}
