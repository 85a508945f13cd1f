"""How many rows a page has: about a second of work."""

from __future__ import annotations

PAGE_TIME = 1.0  # seconds of work that a page should be
PAGE_MIN, PAGE_FIRST, PAGE_MAX = 50, 200, 2000  # rows
WHOLE_FIRST = 1  # of a first page that is one transaction: it may be slow


class PageSize:
    """Rows of the next page: about PAGE_TIME of work, growing no faster than twofold.

    A page that is one transaction can't be left in its middle, so it begins small.
    """

    def __init__(self, *, whole: bool, batch: int | None) -> None:
        self.batch = batch
        self.small: int | None = None
        self.least = 1 if whole else PAGE_MIN
        self.size = WHOLE_FIRST if whole else PAGE_FIRST

    @property
    def rows(self) -> int:
        """Whole lists, where the callback takes lists; fewer near a row that can't be
        read."""
        if self.small is not None:
            return self.small
        if self.batch is None:
            return self.size
        return max(self.batch, self.size - self.size % self.batch)

    def adapt(self, rows: int, took: float) -> None:
        """Learn from a page of so many rows and seconds."""
        if self.small is not None:
            self.small = self.small * 2 if self.small * 2 < self.size else None
            return
        fitting = int(rows * PAGE_TIME / max(took, 1e-6))
        self.size = max(self.least, min(PAGE_MAX, self.size * 2, fitting))

    def halve(self) -> bool:
        """Ask for fewer rows, since one of them can't be read; whether it can be."""
        if self.rows == 1:
            return False
        self.small = self.rows // 2
        return True
