"""Reads long tables page by page, by key and never by offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import CharField, DateTimeField, Func, Q, QuerySet, Value
from django.db.models.functions import Cast

from cloudtask.stores.pages import Page, mark_of, read_mark

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


def newest_first(rows: QuerySet[Any], at: str) -> QuerySet[Any]:
    """`rows` by the column `at`, newest first; each knows its `mark_time`."""
    marked: QuerySet[Any] = rows.annotate(mark_time=Cast(at, CharField(max_length=60)))
    return marked.order_by(f"-{at}", "-pk")


def from_mark(rows: QuerySet[Any], at: str, mark: str | None) -> QuerySet[Any]:
    """Those of `rows`, newest first, that follow the mark; ValueError if it is none."""
    if mark is None:
        return rows
    text, key = read_mark(mark)
    time = StoredTime(Value(text, output_field=CharField()))
    # Two conditions, so that the index is entered at the time of the mark.
    return rows.filter(Q(**{f"{at}__lt": time}) | Q(pk__lt=key), **{f"{at}__lte": time})


def page_of(
    rows: QuerySet[Any],
    at: str,
    *,
    before: str | None,
    limit: int,
    made: Callable[[Any], T],
) -> Page[T]:
    """A page of `rows`, newest first by the column `at`, each as `made` makes it."""
    chosen = from_mark(newest_first(rows, at), at, before)
    found = list(chosen[: limit + 1])
    items = tuple(made(row) for row in found[:limit])
    if len(found) <= limit:
        return Page(items)
    last = found[limit - 1]
    return Page(items, mark_of(str(last.mark_time), last.pk))


def count_up_to(rows: QuerySet[Any], most: int) -> int:
    """The number of `rows`, counted no further than `most`."""
    return rows.order_by().values("pk")[:most].count()
