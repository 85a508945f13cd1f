"""Reads long tables page by page, by key and never by offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import (
    CharField,
    DateTimeField,
    Func,
    IntegerField,
    Q,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.functions import Cast

from cloudtask.stores.database.fitting import fetched
from cloudtask.stores.pages import Page, is_mark, mark_of, read_mark

T = TypeVar("T")


class StoredTime(Func):
    """A time in the words of the database itself.

    The text must be the same: SQLite compares times as texts, and writes three digits
    of a second where Django writes six.
    """

    template = "%(expressions)s"
    output_field = DateTimeField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "(%(expressions)s)::timestamptz"
        return self.as_sql(compiler, connection, template=template, **context)


class BoundedCount(Subquery):
    """The number of rows of a query that has a limit, beside aggregates of another
    table: both in one statement."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()
    contains_aggregate = True


def page_of(
    rows: QuerySet[Any],
    at: str,
    *,
    mark: str | None,
    limit: int,
    made: Callable[[Any], T],
    ascending: bool = False,
) -> Page[T]:
    """A page of `rows` from `mark` on, each as `made` makes it: by the column `at`, the
    newest first, or the oldest if `ascending`. Raises ValueError for a wrong mark."""
    sign = "" if ascending else "-"
    rows = _behind(rows, at, mark, "gt" if ascending else "lt")
    rows = rows.annotate(mark_time=Cast(at, CharField(max_length=60)))
    found = fetched(rows.order_by(f"{sign}{at}", f"{sign}pk")[: limit + 1])
    marks = [mark_of(str(row.mark_time), str(row.pk)) for row in found[:limit]]
    items = tuple(made(row) for row in found[:limit])
    if len(found) <= limit:
        return Page(items)
    # Not that of a row whose time is none. The next page begins with that row again.
    return Page(items, next(filter(is_mark, reversed(marks)), None))


def _behind(rows: QuerySet[Any], at: str, mark: str | None, then: str) -> QuerySet[Any]:
    if mark is None:
        return rows
    text, key = read_mark(mark)
    time = StoredTime(Value(text, output_field=CharField()))
    # Two conditions, so that the index is entered at the time of the mark.
    return rows.filter(
        Q(**{f"{at}__{then}": time}) | Q(**{f"pk__{then}": key}),
        **{f"{at}__{then}e": time},
    )


def count_up_to(rows: QuerySet[Any], most: int) -> int:
    """The number of `rows`, counted no further than `most`."""
    return rows.order_by().values("pk")[:most].count()
