"""Loops over the rows of a leg: plainly, by lists, in transactions, and carefully.

The plain loop does as little as a loop over rows can: one call, one try, one look at
the clock. Everything else happens every CHECKPOINT seconds, at the end of a page, or
after an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cloudtask import failpoints
from cloudtask.delivering.calls import awaited
from cloudtask.exceptions import PermanentTaskFailure, Retry
from cloudtask.iteration.bounds import text_of
from cloudtask.iteration.failing import treat
from cloudtask.iteration.leg import End, Leg, RowRaised, is_of_row
from cloudtask.iteration.sources import Page
from cloudtask.iteration.sources.pages import WHOLE_FIRST, Amount, Reader, Unreadable

logger = logging.getLogger("cloudtask")

NOTHING: Mapping[Any, BaseException] = MappingProxyType({})

Loop = Callable[[Leg, Page], "End | None"]
CallOne = Callable[[Leg, Any, Any], None]


def walk(leg: Leg) -> End:
    """Call the function for rows above the cursor until there is none, or until the leg
    must end. Raises LeaseLost and Stopped."""
    if leg.is_walked:
        return End.WALKED
    lease, clock = leg.lease, leg.lease.clock
    reader = Reader(
        lease.source,
        clock=clock,
        stride=leg.stride,
        batch=lease.description.batch_size,
        keys_only=lease.description.atomic == "row",
    )
    while True:
        if end := leg.must_end():
            return end
        failpoints.reached("shard.before_page")
        page = reader.read(leg.bounds)
        leg.stride = reader.stride
        if page is None:
            continue
        if isinstance(page, Unreadable):
            if end := treat(leg, page.key, page.error):
                return end
            continue
        leg.begin_page(reader.took)
        before = clock()
        if page.values and (end := _loop_for(leg)(leg, page)):
            return end
        leg.end_page()
        # The queryset may have left out rows behind the last value.
        leg.cursor = page.end
        if page.is_last:
            leg.is_walked = True
            return End.WALKED
        reader.learn(len(page.values), clock() - before)
        leg.stride = reader.stride


def _loop_for(leg: Leg) -> Loop:
    """The loop that the run asks for, or that earlier deaths make necessary."""
    description = leg.lease.description
    if leg.is_careful:
        return carefully
    if description.atomic == "row":
        return row_by_row
    if description.atomic == "page":
        return in_transactions
    return in_lists if description.batch_size else plainly


def plainly(leg: Leg, page: Page) -> End | None:
    """Call the function for each row. A row that raises is recorded and passed."""
    function, clock, keys = leg.lease.function, leg.lease.clock, page.keys
    counted = 0  # rows of the page that `leg` has counted
    before = clock()
    for place, value in enumerate(page.values):
        try:
            result = function(value)
            if result is not None:
                awaited(result)
        except BaseException as error:
            _advance(leg, keys, counted, place)
            if not is_of_row(error):
                raise
            counted = place + 1
            if end := treat(leg, keys[place], error):
                return end
            before = clock()
            continue
        now = clock()
        # A callback that pauses its run sets `look_at` to 0.
        if now >= leg.look_at:
            # A row so slow that it matters always gets here.
            leg.slowest = max(leg.slowest, now - before)
            _advance(leg, keys, counted, place + 1)
            counted = place + 1
            leg.save()
            if end := leg.must_end():
                return end
            now = clock()
        before = now
    _advance(leg, keys, counted, len(keys))
    return None


def _advance(leg: Leg, keys: Sequence[Any], counted: int, place: int) -> None:
    """Count the rows from `counted` to before `place` as done."""
    if place > counted:
        leg.passed(keys[place - 1], place - counted)


def in_lists(leg: Leg, page: Page) -> End | None:
    """Call the function with lists. A list that raises is tried again value by value,
    to find out which one is at fault."""
    size = leg.lease.description.batch_size or 1
    for part in _parts(page, size):
        before = leg.lease.clock()
        try:
            leg.call_with(list(part.values))
        except RowRaised as raised:
            again = _anew(leg, part.keys)
            _skip_gone(leg, len(part.keys) - len(again.keys), raised.error)
            if end := _one_by_one(leg, again, _call):
                return end
        else:
            leg.passed(part.keys[-1], len(part.keys))
        leg.slowest = max(leg.slowest, leg.lease.clock() - before)
        if end := leg.must_end():
            return end
    return None


def _parts(page: Page, size: int) -> list[Page]:
    """The page in parts of `size` rows."""
    starts = range(0, len(page.keys), size)
    return [page.part(start, start + size) for start in starts]


def in_transactions(leg: Leg, page: Page) -> End | None:
    """Commit the writes of many rows and the cursor behind them together.

    A transaction can't be left in its middle, so the first one has few rows. If a row
    raises, its transaction is rolled back and done again row by row.
    """
    amount = Amount(WHOLE_FIRST, 1, leg.lease.description.batch_size)
    place = 0
    while place < len(page.keys):
        part = page.part(place, place + amount.rows)
        before = leg.lease.clock()
        if end := _in_transaction(leg, part):
            return end
        amount.learn(len(part.keys), leg.lease.clock() - before)
        place += len(part.keys)
        if place < len(page.keys) and (end := leg.must_end()):
            return end
    return None


def _in_transaction(leg: Leg, part: Page) -> End | None:
    before = leg.lease.clock()
    told: dict[Any, BaseException] = {}
    try:
        with leg.transaction():
            _call_all(leg, part, told)
            leg.passed(part.keys[-1], len(part.keys))
            leg.save()
    except RowRaised:
        return _one_by_one(leg, _anew(leg, part.keys), _call_atomically, told)
    took = leg.lease.clock() - before
    leg.slowest = max(leg.slowest, took / len(part.keys))
    return None


def _call_all(leg: Leg, part: Page, told: dict[Any, BaseException]) -> None:
    """Call the function with all rows. `told` gets the error of a row that asks for
    another try or for none. The row that raises another error is called once more by
    itself, since the error may be of the rows together."""
    if size := leg.lease.description.batch_size:
        for some in _parts(part, size):
            leg.call_with(list(some.values))
        return
    for key, value in zip(part.keys, part.values, strict=True):
        try:
            leg.call_with(value)
        except RowRaised as raised:
            if isinstance(raised.error, Retry | PermanentTaskFailure):
                told[key] = raised.error
            raise


def _skip_gone(leg: Leg, rows: int, error: BaseException) -> None:
    """Count rows of a list that has raised as skipped: they can't be called again,
    because they are deleted or no longer in the queryset."""
    if rows:
        leg.skipped += rows
        logger.error("A list of iteration %s raised.", leg.lease.run.id, exc_info=error)


def _anew(leg: Leg, keys: Sequence[Any]) -> Page:
    """The rows once more, as the database has them: the callback has changed its values
    in memory, and its writes may have been rolled back."""
    values = leg.lease.source.values_of(keys)
    there = [key for key in keys if key in values]
    return Page([values[key] for key in there], there)


def row_by_row(leg: Leg, page: Page) -> End | None:
    """Commit each row by itself. It is read in its own transaction."""
    return _one_by_one(leg, page, _call_atomically)


def carefully(leg: Leg, page: Page) -> End | None:
    """Write each key before its call. If the worker is killed, that key tells why.

    A suspect that is at the cursor has been passed. It is written so that the deaths
    stay counted.
    """
    if end := _one_by_one(leg, page, _call_suspected):
        return end
    leg.save(suspect=text_of(leg.cursor) if leg.is_careful else None)
    return None


def _one_by_one(
    leg: Leg, page: Page, call: CallOne, told: Mapping[Any, BaseException] = NOTHING
) -> End | None:
    for key, value in zip(page.keys, page.values, strict=True):
        before = leg.lease.clock()
        try:
            if key in told:
                raise RowRaised(told[key])
            call(leg, key, value)
        except RowRaised as raised:
            if end := treat(leg, key, raised.error):
                return end
        leg.slowest = max(leg.slowest, leg.lease.clock() - before)
        if end := leg.must_end():
            return end
    return None


def _call(leg: Leg, key: Any, value: Any) -> None:
    leg.call(value)
    leg.passed(key)


def _call_atomically(leg: Leg, key: Any, value: Any, **changes: Any) -> None:
    with leg.transaction():
        if leg.lease.description.atomic == "row":
            values = leg.locked(key)
            if not values:
                # Deleted, or out of the queryset, since its page was read.
                leg.cursor = key
                leg.save(**changes)
                return
            value = values[0]
        leg.call(value)
        leg.passed(key)
        leg.save(**changes)


def _call_suspected(leg: Leg, key: Any, value: Any) -> None:
    suspect = text_of(key)
    leg.save(suspect=suspect)
    before = leg.lease.clock()
    if leg.lease.description.atomic:
        _call_atomically(leg, key, value, suspect=suspect)
    else:
        _call(leg, key, value)
    leg.careful += leg.lease.clock() - before
