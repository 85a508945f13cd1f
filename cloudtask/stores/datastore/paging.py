"""Reads long kinds of Datastore page by page, along one indexed text property.

The property has a prefix, a time and a key, as in "group 2026-01-02T03:04:05.678901 k".
So one property serves a filter, the order by time and the mark of a page, without a
composite index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from cloudtask.stores.datastore.access import (
    Access,
    Filter,
    Row,
)
from cloudtask.stores.datastore.entities import sortable
from cloudtask.stores.datastore.prefixes import after
from cloudtask.stores.pages import Page, is_mark, mark_of, read_mark

T = TypeVar("T")

SCANNED = 1_000  # rows that are read for one page, if most of them are not wanted
LAST = "\uffff"  # behind every key


def placed(prefix: str, at: datetime, key: str) -> str:
    """The value of the property for a row."""
    return f"{prefix}{sortable(at)} {key}"


def bounds(
    name: str,
    prefix: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    before: str | None = None,
) -> list[Filter]:
    """Filters for rows by prefix, by time, and by the mark of a page."""
    ends = []
    if until is not None:
        ends.append(f"{prefix}{sortable(until)} {LAST}")
    if before is not None:
        ends.append(prefix + " ".join(read_mark(before)))
    end = min(ends) if ends else (after(prefix) if prefix else LAST)
    start = prefix + (sortable(since) if since is not None else "")
    return [(name, ">=", start), (name, "<", end)]


def page_along(
    access: Access,
    what: str,
    kind: str,
    name: str,
    filters: Sequence[Filter],
    *,
    wanted: Callable[[Row], bool],
    limit: int,
) -> Page[Row]:
    """A page of the rows that are `wanted`, the last along the property first."""
    found: list[Row] = []
    start, end = filters
    scanned = 0
    while True:
        rows = access.query(what, kind, [start, end], order=f"-{name}", limit=limit + 1)
        for row in rows[:limit]:
            end = (name, "<", row.values[name])
            found += [row] if wanted(row) else []
            if len(found) == limit:
                is_last = row is rows[-1]
                return Page(
                    tuple(found), None if is_last else _mark_of_last(found, name)
                )
        scanned += len(rows)
        if len(rows) <= limit:
            return Page(tuple(found))
        if scanned >= SCANNED:
            return Page(tuple(found), _mark_of_last(rows[:limit], name))


def _mark_of_last(rows: Sequence[Row], name: str) -> str | None:
    """The mark of the last row that has one: someone may have written the property.
    The next page begins behind that row."""
    for row in reversed(rows):
        mark = "|".join(str(row.values[name]).split(" ")[-2:])
        if is_mark(mark):
            return mark
    return None


def paged(page: Page[Row], made: Callable[[Row], T]) -> Page[T]:
    """The page, with its rows as `made` makes them."""
    return Page(tuple(made(row) for row in page.items), page.next)


def merged(
    pages: Sequence[Page[Row]], *, limit: int, made: Callable[[Row], T]
) -> Page[T]:
    """The newest rows of pages that begin at one mark, as one page.

    The rows have the property `at`. Below the end of a page that has a next one, rows
    of that page are missing, so nothing below it is shown yet.
    """
    rows = sorted(
        (row for page in pages for row in page.items),
        key=lambda row: str(row.values["at"]),
        reverse=True,
    )
    ends = [" ".join(read_mark(page.next)) for page in pages if page.next is not None]
    floor = max(ends, default="")
    complete = [row for row in rows if row.values["at"] >= floor][:limit]
    is_last = not ends and len(complete) == len(rows)
    if is_last:
        return Page(tuple(made(row) for row in complete))
    last = _mark_of_last(complete, "at") if len(complete) == limit else None
    if last is None and floor:
        last = mark_of(*floor.split(" "))
    return Page(tuple(made(row) for row in complete), last)
