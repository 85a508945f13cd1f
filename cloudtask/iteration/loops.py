"""The loops over the rows of a leg: plain, by lists, in transactions, carefully.

The plain one is as bare as a loop over the rows can be: one call, one try, one look at
the clock. All else happens every CHECKPOINT seconds, at the end of a page, or on an
error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from django.db import Error

from cloudtask import failpoints
from cloudtask.delivering.calls import awaited
from cloudtask.delivering.errors import UNCAUGHT
from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure, Retry
from cloudtask.iteration.failing import treat
from cloudtask.iteration.keys import text_of
from cloudtask.iteration.legs import End, Leg, RowRaised
from cloudtask.iteration.pages import PageSize
from cloudtask.iteration.sources import Page

logger = logging.getLogger("cloudtask")

NOTHING: Mapping[Any, BaseException] = MappingProxyType({})

Loop = Callable[[Leg, Page], "End | None"]
CallOne = Callable[[Leg, Any, Any], None]


def walk(leg: Leg) -> End:
    """Call the function for rows above the cursor until there is none, or the leg must
    end. Raises LeaseLost and Stopped."""
    if leg.is_walked:
        return End.WALKED
    description = leg.work.description
    is_whole = description.atomic == "page"
    size = PageSize(whole=is_whole, batch=description.batch_size)
    while True:
        if end := leg.must_end():
            return end
        failpoints.reached("shard.before_page")
        asked = size.rows
        try:
            page = leg.work.source.page(leg.bounds, asked)
        except Exception as error:  # noqa: BLE001  a row that can't be read is its own
            if end := _unread(leg, size, error):
                return end
            continue
        before = leg.work.clock()
        if page.values and (end := loop_for(leg)(leg, page)):
            return end
        # Above an open end rows may have come while the page was worked on.
        if not page.values or (len(page.values) < asked and leg.high is not None):
            leg.is_walked = True
            return End.WALKED
        size.adapt(len(page.values), leg.work.clock() - before)


def _unread(leg: Leg, size: PageSize, error: BaseException) -> End | None:
    """A page could not be read. By halves the row is found that its own code, such as
    `from_db_value`, can't make an instance of; raises for whatever else it was."""
    if isinstance(error, Error | CloudTaskError):
        raise error
    if size.halve():
        return None
    key = leg.work.source.key_after(leg.bounds, 1)
    if key is None:
        raise error  # there is no row that it could be of
    return treat(leg, key, error)


def loop_for(leg: Leg) -> Loop:
    """How the run wants its rows called, and how they have to be."""
    description = leg.work.description
    if leg.is_careful:
        return carefully
    if description.atomic == "row":
        return row_by_row
    if description.atomic == "page":
        return whole_pages
    return in_lists if description.batch_size else plainly


def plainly(leg: Leg, page: Page) -> End | None:
    function, clock, keys = leg.work.function, leg.work.clock, page.keys
    counted = 0  # rows of the page that `leg` knows of
    before = clock()
    due = leg.next_look()
    for place, value in enumerate(page.values):
        try:
            result = function(value)
            if result is not None:
                awaited(result)
        except UNCAUGHT:
            raise
        except BaseException as error:  # noqa: BLE001  the policy decides
            _advance(leg, keys, counted, place)
            counted = place + 1
            if end := treat(leg, keys[place], error):
                return end
            before = clock()
            continue
        now = clock()
        if now >= due:
            # A row so slow that it matters always brings us here.
            leg.slowest = max(leg.slowest, now - before)
            _advance(leg, keys, counted, place + 1)
            counted = place + 1
            leg.save()
            if end := leg.must_end():
                return end
            due = leg.next_look()
            now = clock()
        before = now
    _advance(leg, keys, counted, len(keys))
    return None


def _advance(leg: Leg, keys: Sequence[Any], counted: int, place: int) -> None:
    """Move behind the rows from `counted` to before `place`: they are done."""
    if place > counted:
        leg.passed(keys[place - 1], place - counted)


def in_lists(leg: Leg, page: Page) -> End | None:
    """A list that raises is tried again value by value: one of them is at fault."""
    for at, group in _groups(leg, page.values):
        before = leg.work.clock()
        keys = page.keys[at : at + len(group)]
        try:
            leg.call_with(group)
        except RowRaised as raised:
            again = _anew(leg, keys)
            _skip_gone(leg, len(keys) - len(again.keys), raised.error)
            if end := _one_by_one(leg, again, _call):
                return end
        else:
            leg.passed(keys[-1], len(group))
        leg.slowest = max(leg.slowest, leg.work.clock() - before)
        if end := leg.must_end():
            return end
    return None


def _groups(leg: Leg, values: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """Lists of `batch_size` values, and where they begin."""
    size = leg.work.description.batch_size or 1
    starts = range(0, len(values), size)
    return [(at, list(values[at : at + size])) for at in starts]


def whole_pages(leg: Leg, page: Page) -> End | None:
    """The writes of all rows, and the cursor behind them, in one transaction; row by
    row when one of them raises."""
    before = leg.work.clock()
    told: dict[Any, BaseException] = {}
    try:
        with leg.transaction():
            if leg.work.description.batch_size:
                for _, group in _groups(leg, page.values):
                    leg.call_with(group)
            else:
                _call_all(leg, page, told)
            leg.passed(page.keys[-1], len(page.keys))
            leg.save()
    except RowRaised:
        return _one_by_one(leg, _anew(leg, page.keys), _call_atomically, told)
    took = leg.work.clock() - before
    leg.slowest = max(leg.slowest, took / len(page.keys))
    return None


def _call_all(leg: Leg, page: Page, told: dict[Any, BaseException]) -> None:
    """Call the function with each row; `told` is what one has said that it needs. Other
    errors may be the page's as well, and the row is called once more by itself."""
    for key, value in zip(page.keys, page.values, strict=True):
        try:
            leg.call_with(value)
        except RowRaised as raised:
            if isinstance(raised.error, Retry | PermanentTaskFailure):
                told[key] = raised.error
            raise


def _skip_gone(leg: Leg, rows: int, error: BaseException) -> None:
    """Count rows of a list that has raised and that can't be called again, since they
    are deleted, or out of the filter."""
    if rows:
        leg.skipped += rows
        logger.error("A list of iteration %s raised.", leg.shard.run, exc_info=error)


def _anew(leg: Leg, keys: Sequence[Any]) -> Page:
    """The page once more, as the database has it: callbacks have changed its values,
    and what they wrote was rolled back, or was not."""
    values = leg.work.source.values_of(keys)
    there = [key for key in keys if key in values]
    return Page([values[key] for key in there], there)


def row_by_row(leg: Leg, page: Page) -> End | None:
    return _one_by_one(leg, page, _call_atomically)


def carefully(leg: Leg, page: Page) -> End | None:
    """The key is written before each call: if the process dies, it is known why.

    A suspect at the cursor has been passed; naming it lets the deaths stay counted.
    """
    if end := _one_by_one(leg, page, _call_suspected):
        return end
    leg.save(suspect=text_of(leg.cursor) if leg.is_careful else None)
    return None


def _one_by_one(
    leg: Leg, page: Page, call: CallOne, told: Mapping[Any, BaseException] = NOTHING
) -> End | None:
    for key, value in zip(page.keys, page.values, strict=True):
        before = leg.work.clock()
        try:
            if key in told:
                raise RowRaised(told[key])
            call(leg, key, value)
        except RowRaised as raised:
            if end := treat(leg, key, raised.error):
                return end
        leg.slowest = max(leg.slowest, leg.work.clock() - before)
        if end := leg.must_end():
            return end
    return None


def _call(leg: Leg, key: Any, value: Any) -> None:
    leg.call(value)
    leg.passed(key)


def _call_atomically(leg: Leg, key: Any, value: Any, **changes: Any) -> None:
    with leg.transaction():
        leg.call(value)
        leg.passed(key)
        leg.save(**changes)


def _call_suspected(leg: Leg, key: Any, value: Any) -> None:
    suspect = text_of(key)
    leg.save(suspect=suspect)
    before = leg.work.clock()
    if leg.work.description.atomic:
        _call_atomically(leg, key, value, suspect=suspect)
    else:
        _call(leg, key, value)
    leg.careful += leg.work.clock() - before
