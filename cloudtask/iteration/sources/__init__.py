"""Provides the source of a run: the rows of a queryset, or the items of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from cloudtask import codec
from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration import planner
from cloudtask.iteration.bounds import Bounds, is_nan
from cloudtask.iteration.planner import IsOver, Plan, Rest, never

if TYPE_CHECKING:
    from django.db.models import QuerySet


# Keys in one query. Of several columns SQLite gets a condition each, and allows a
# thousand of those.
AT_ONCE, SEVERAL_AT_ONCE = 500, 100


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the order of their keys, and the keys as the database had them. A
    callback may change or delete what it is given.

    All rows up to and including `end` were read. `is_last` tells that the bounds have
    no rows above it, `is_full` that there are as many rows as were asked for. A page
    may have no values: the queryset may leave out rows that the database has.
    """

    values: Sequence[Any]
    keys: Sequence[Any]
    end: Any = None
    is_last: bool = False
    is_full: bool = True

    def part(self, start: int, stop: int) -> Page:
        """Some of the rows, by their place in the page."""
        return replace(self, values=self.values[start:stop], keys=self.keys[start:stop])


class Source(Protocol):
    """The rows or items that a run walks."""

    def plan(
        self,
        shards: int | None,
        *,
        include_new: bool,
        rest: Rest | None = None,
        is_over: IsOver = never,
    ) -> Plan:
        """Pieces of about the same size, of all rows or of a `rest`; see `planner`."""
        ...

    def page(
        self, bounds: Bounds, size: int, *, stride: int | None, keys_only: bool
    ) -> Page:
        """The first rows within `bounds`, `size` at most. With a `stride` the query
        looks at that many keys of the table at most. With `keys_only` the values are
        the keys."""
        ...

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        """The key of row number `rows` within `bounds`; None if there are fewer."""
        ...

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """The values that still exist, by key."""
        ...

    def locked(self, key: Any) -> list[Any]:
        """The value of a key, if it still exists, locked until the end of the open
        transaction if the database can lock rows."""
        ...

    def check(self) -> None:
        """Raise the error that every query would raise."""
        ...

    @property
    def is_filtered(self) -> bool:
        """Whether a query may have to look at more rows than it returns."""
        ...


class QuerySetSource:
    """The rows of a queryset, by primary key."""

    def __init__(self, queryset: QuerySet[Any]) -> None:
        from django.db.models import Model
        from django.db.models.query import ModelIterable

        self.queryset = queryset
        meta = queryset.model._meta
        is_single = len(meta.pk_fields) == 1
        # A callback that deletes its row, or saves a copy, changes the instance's key.
        self.key = attrgetter(meta.pk.attname if is_single else "pk")
        self.at_once = AT_ONCE if is_single else SEVERAL_AT_ONCE
        # Others may leave rows out, and what is read does not tell which.
        self.yields_all = (
            queryset._iterable_class is ModelIterable
            and queryset.model.from_db.__func__ is Model.from_db.__func__  # type: ignore[attr-defined]
        )
        self.may_be_nan = any(
            field.get_internal_type() in ("FloatField", "DecimalField")
            for field in meta.pk_fields
        )

    @property
    def is_filtered(self) -> bool:
        return planner.is_filtered(self.queryset)

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

    def page(
        self,
        bounds: Bounds,
        size: int,
        *,
        stride: int | None = None,
        keys_only: bool = False,
    ) -> Page:
        within = bounds if stride is None else self._in_stride(bounds, stride)
        if self.yields_all and not keys_only:
            values: Sequence[Any] = list(within.of(self.queryset)[:size])
            keys: Sequence[Any] = list(map(self.key, values))
            read = keys
        else:
            read = list(self._keys(within)[:size])
            values, keys = self._values_at(read, keys_only)
        if self.may_be_nan:
            _refuse_nan(read)
        is_full = len(read) >= size
        if not is_full and within != bounds:
            return Page(values, keys, within.high, is_full=False)
        # Above an open end rows may be added while the page is worked on.
        is_last = not read or (not is_full and bounds.high is not None)
        return Page(values, keys, read[-1] if read else bounds.low, is_last, is_full)

    def _in_stride(self, bounds: Bounds, stride: int) -> Bounds:
        """The beginning of `bounds` that has `stride` rows of the table."""
        table = bounds.of(planner.table_of(self.queryset)).values_list("pk", flat=True)
        found = list(table[stride - 1 : stride])
        return Bounds(bounds.low, found[0]) if found else bounds

    def _keys(self, bounds: Bounds) -> QuerySet[Any]:
        return bounds.of(self.queryset).values_list("pk", flat=True)

    def _values_at(
        self, read: Sequence[Any], keys_only: bool
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The rows that the queryset yields for some keys of the database."""
        if keys_only:
            return read, read
        values = self.values_of(read)
        there = [key for key in read if key in values]
        return [values[key] for key in there], there

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        found = list(self._keys(bounds)[rows - 1 : rows])
        return found[0] if found else None

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return {
            self.key(row): row
            for start in range(0, len(keys), self.at_once)
            for row in self.queryset.filter(pk__in=keys[start : start + self.at_once])
            if row is not None  # as a `from_db` may leave it out
        }

    def locked(self, key: Any) -> list[Any]:
        # By a query of its own: one with joins or groups can't lock everywhere.
        table = planner.table_of(self.queryset).filter(pk=key).order_by()
        list(table.select_for_update().values_list("pk", flat=True))
        return [row for row in self.queryset.filter(pk=key) if row is not None]

    def check(self) -> None:
        from django.core.exceptions import EmptyResultSet

        queryset = self.queryset.all()
        try:
            queryset.query.get_compiler(queryset.db).as_sql()
        except EmptyResultSet:
            return


def _refuse_nan(keys: Sequence[Any]) -> None:
    for key in keys:
        if is_nan(key):
            raise UnsupportedValue(
                f"The primary key {key!r} is NaN. A walk by key can't pass it, since "
                "Python compares it with no key, not even itself."
            )


class ListSource:
    """The items of `map()`, encoded; the key of an item is its place, from 1."""

    is_filtered = False

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

    def page(
        self,
        bounds: Bounds,
        size: int,
        *,
        stride: int | None = None,
        keys_only: bool = False,
    ) -> Page:
        there = self._places(bounds)
        places = there[:size]
        values: Sequence[Any] = self.items[places.start - 1 : places.stop - 1]
        end = places[-1] if places else bounds.low
        return Page(
            places if keys_only else values, places, end, len(places) == len(there)
        )

    def key_after(self, bounds: Bounds, rows: int) -> Any:
        places = self._places(bounds)
        return places[rows - 1] if rows <= len(places) else None

    def values_of(self, keys: Sequence[Any]) -> dict[Any, Any]:
        # Decoded anew: a first try may have changed its item.
        fresh = codec.loads(self.encoded)
        return {key: fresh[key - 1] for key in keys if key <= len(fresh)}

    def locked(self, key: Any) -> list[Any]:
        return self.items[key - 1 : key]  # type: ignore[return-value]

    def check(self) -> None:
        return
