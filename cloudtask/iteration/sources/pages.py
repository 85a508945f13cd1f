"""Reads the pages of a leg, and learns how large they may be.

A page is to be about a second of work, reading included. Two numbers say how much one
query may do: `size`, the rows that it returns, and `stride`, the keys of the table that
it looks at. A stride is needed if a query takes longer than the database allows, or if
a filter leaves so few rows that a query for a page would look at millions of others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import Error

from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.sources import Page, Source
from cloudtask.stores.transactions import is_statement_timeout

PAGE_TIME = 1.0  # seconds of work that a page should be
PAGE_MIN, PAGE_FIRST, PAGE_MAX = 50, 200, 2000  # rows
WHOLE_FIRST = 1  # rows of a first transaction: they may be slow
STRIDE = 10_000  # keys of the table, after a query that did not end in time
STRIDE_TIME = 1.0  # seconds that a query with a stride should take at most


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that could not be read, because its own code raised an error."""

    key: Any
    error: Exception


class Amount:
    """A number of rows that is to be about PAGE_TIME of work, and grows no faster than
    twofold. If the callback takes lists, it is a multiple of their length."""

    def __init__(self, first: int, least: int, batch: int | None) -> None:
        self.rows_as_learned, self.least, self.batch = first, least, batch

    @property
    def rows(self) -> int:
        if self.batch is None:
            return self.rows_as_learned
        whole = self.rows_as_learned - self.rows_as_learned % self.batch
        return max(self.batch, whole)

    def learn(self, rows: int, took: float, target: float = PAGE_TIME) -> None:
        """Learn from `rows` that took so many seconds; `target` is what they should."""
        fitting = int(rows * target / max(took, 1e-6))
        most = min(PAGE_MAX, self.rows_as_learned * 2)
        self.rows_as_learned = max(self.least, min(most, fitting))


class Reader:
    """Reads pages of a source, from the first to the last."""

    def __init__(
        self,
        source: Source,
        *,
        clock: Callable[[], float],
        stride: int | None = None,
        batch: int | None = None,
        keys_only: bool = False,
    ) -> None:
        self.source = source
        self.clock = clock
        self.stride = stride
        self.keys_only = keys_only
        self.amount = Amount(PAGE_FIRST, PAGE_MIN, batch)
        self.near: int | None = None  # rows of a page near a row that can't be read
        self.asked = 0
        self.is_full = False  # whether the latest page has as many rows
        self.took = 0.0  # seconds that it took to read
        self.marginal: tuple[int, float] | None = None

    def read(self, bounds: Bounds) -> Page | Unreadable | None:
        """The next page within `bounds`. None if it is to be read again, with other
        numbers. Raises an error that is not of one row."""
        self.asked = self.near or self.amount.rows
        before = self.clock()
        try:
            page = self.source.page(
                bounds, self.asked, stride=self.stride, keys_only=self.keys_only
            )
        except Exception as error:  # noqa: BLE001  a row's own code may have raised it
            return self._failed(bounds, error)
        self.took = self.clock() - before
        self.is_full = page.is_full
        return page

    def _failed(self, bounds: Bounds, error: Exception) -> Unreadable | None:
        if is_statement_timeout(error) and self._narrow():
            return None
        if isinstance(error, Error | CloudTaskError):
            raise error
        self.source.check()  # raises if no row at all can be read
        if self.asked > 1:
            # By halves the row is found of which no instance can be made.
            self.near = self.asked // 2
            return None
        key = self.source.key_after(bounds, 1)
        if key is None:
            raise error  # there is no row that it could be of
        return Unreadable(key, error)

    def _narrow(self) -> bool:
        """Have the next query look at fewer keys; False if it can't."""
        if self.stride == 1:
            return False
        # The first stride is below the rows that were asked for: the query may have
        # looked at no others.
        self.stride = max(1, min(self.stride or self.asked, self.asked) // 2)
        return True

    def learn(self, rows: int, called: float) -> None:
        """Learn from a page whose `rows` took so many seconds to be called."""
        if self.near is not None:
            self.near = self.near * 2 if self.near * 2 < self.amount.rows else None
            return
        if self.stride is not None:
            self._learn_stride(self.stride)
        if not rows:
            return
        # Reading may have a cost that does not depend on the rows: a large page then
        # spares it. Its part that does depend counts like the calls.
        fixed, by_row = self._cost_of_reading(rows)
        self.amount.learn(rows, called + by_row, max(PAGE_TIME, fixed))

    def _cost_of_reading(self, rows: int) -> tuple[float, float]:
        """The seconds that reading took whatever the rows, and those by their number,
        as far as two pages of different sizes tell."""
        before, self.marginal = self.marginal, (rows, self.took)
        if before is None or before[0] == rows:
            return 0.0, self.took
        a_row = (self.took - before[1]) / (rows - before[0])
        by_row = min(self.took, max(0.0, a_row) * rows)
        return self.took - by_row, by_row

    def _learn_stride(self, stride: int) -> None:
        # A full page does not tell how long its whole range would have taken.
        if self.took < STRIDE_TIME / 2 and not self.is_full:
            self.stride = stride * (4 if self.took < STRIDE_TIME / 10 else 2)
        elif self.took > STRIDE_TIME:
            # Not below the rows of a page: if reading is slow whatever the stride,
            # small pages would only be slower.
            self.stride = max(min(stride, PAGE_FIRST), stride // 2)
