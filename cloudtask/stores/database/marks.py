"""Keeps the marks of calls in a table of this app."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.db.models import Q, QuerySet

from cloudtask import clock
from cloudtask.clock import database_now as now
from cloudtask.stores.compiled import Statement, selecting
from cloudtask.stores.marks import MarkStore
from cloudtask.stores.transactions import Database, delete_by_key, inserted

A_WHILE = timedelta(days=1)

if TYPE_CHECKING:
    from cloudtask.models import CallMark


class DatabaseMarks(Database, MarkStore):
    """The part of DatabaseStore that keeps marks."""

    def _marks(self) -> QuerySet[CallMark]:
        from cloudtask.models import CallMark

        return CallMark.objects.using(self.database)

    def begin_call(self, key: str) -> bool:
        with self.writing(f"Marking that {key} begins"):
            mark = self._marked(key, is_begun=True)
            return mark is None or not mark.is_cancelled

    def begin_step(self, key: str, *, is_marked: bool) -> bool:
        with self.reading(f"Looking whether {key} goes on"):
            row = self._looked_at(key)
            if row is None:
                return self.begin_call(key) if is_marked else True
            is_cancelled, is_old = row
            if is_old and is_marked:  # a chain may go on for months
                self._marks().filter(pk=key).update(noted_at=now())
        return not is_cancelled

    def _looked_at(self, key: str) -> tuple[bool, bool] | None:
        """Whether a call is cancelled, and whether its mark is old.

        By a statement that is compiled once: each step of each chain looks.
        """
        made = _mark_of(self.database, clock.offset())
        found: Any = made.first(self.database, {_KEY: key})
        return found  # type: ignore[no-any-return]

    def cancel_call(self, key: str, *, may_have_begun: bool = False) -> bool:
        with self.writing(f"Cancelling {key}"):
            mark = self._marked(key, is_cancelled=True, is_begun=may_have_begun)
            if mark is None:
                return may_have_begun
            if not mark.is_cancelled:
                self._marks().filter(pk=key).update(is_cancelled=True, noted_at=now())
            return mark.is_begun

    def _marked(self, key: str, **values: bool) -> CallMark | None:
        """The row of a call; None if there was none, and one with `values` is made.

        The insert waits for a concurrent one, and the locking read sees what others
        have committed, whatever the isolation.
        """
        row = self._marks().model(key=key, noted_at=now(), **values)
        if inserted(row, self.database):
            return None
        marks = self._marks().only("is_begun", "is_cancelled")
        return marks.select_for_update().get(pk=key)

    def is_cancelled(self, key: str) -> bool:
        with self.reading(f"Looking whether {key} is cancelled"):
            return self._marks().filter(pk=key, is_cancelled=True).exists()

    def is_begun(self, key: str) -> bool:
        with self.reading(f"Looking whether {key} has begun"):
            return self._marks().filter(pk=key, is_begun=True).exists()

    def prune_marks(self, older_than: timedelta, limit: int) -> int:
        with self.writing("Pruning marks of calls"):
            old = self._marks().filter(noted_at__lt=now() - older_than)
            keys = list(old.values_list("pk", flat=True)[:limit])
            return delete_by_key(self._marks(), keys)


_KEY = "the key"  # stands for it in the statement


@lru_cache(maxsize=64)
def _mark_of(alias: str, offset: float) -> Statement:
    """The SELECT of a mark. It differs by how far a test has moved the time."""
    from cloudtask.models import CallMark

    is_old = Q(noted_at__lt=now() - A_WHILE)
    rows = CallMark.objects.using(alias).filter(pk=_KEY).annotate(is_old=is_old)
    return selecting(rows.values_list("is_cancelled", "is_old"))
