"""Keeps the marks of calls in Datastore: one entity for each."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from cloudtask.stores.datastore.access import Access, Path, Row, Try
from cloudtask.stores.datastore.entities import moment
from cloudtask.stores.marks import MarkStore

MARK = "CloudtaskCallMark"
A_WHILE = timedelta(days=1)


class DatastoreMarks(Access, MarkStore):
    """The part of DatastoreStore that keeps marks."""

    def begin_call(self, key: str) -> bool:
        path, now = (MARK, key), self.now()

        def work(attempt: Try) -> bool:
            row = attempt.get(path)
            if row is not None:
                return not row.values["is_cancelled"]
            values = {"is_begun": True, "is_cancelled": False, "noted_at": now}
            attempt.put(Row(path, values, ("noted_at",)))
            return True

        return self.transact(f"Marking that {key} begins", work)

    def begin_step(self, key: str, *, is_marked: bool) -> bool:
        what, now = f"Looking whether {key} goes on", self.now()
        [row] = self.get(what, (MARK, key))
        if row is None:
            return self.begin_call(key) if is_marked else True
        if is_marked and moment(row.values["noted_at"]) < now - A_WHILE:
            self.transact(what, partial(_touch, path=row.path, now=now))
        return not row.values["is_cancelled"]

    def cancel_call(self, key: str, *, may_have_begun: bool = False) -> bool:
        path, now = (MARK, key), self.now()

        def work(attempt: Try) -> bool:
            row = attempt.get(path)
            is_begun = may_have_begun if row is None else bool(row.values["is_begun"])
            values = {"is_begun": is_begun, "is_cancelled": True, "noted_at": now}
            attempt.put(Row(path, values, ("noted_at",)))
            return is_begun

        return self.transact(f"Cancelling {key}", work)

    def is_cancelled(self, key: str) -> bool:
        [row] = self.get(f"Looking whether {key} is cancelled", (MARK, key))
        return row is not None and bool(row.values["is_cancelled"])

    def is_begun(self, key: str) -> bool:
        [row] = self.get(f"Looking whether {key} has begun", (MARK, key))
        return row is not None and bool(row.values["is_begun"])

    def prune_marks(self, older_than: timedelta, limit: int) -> int:
        what = "Pruning marks of calls"
        old = [("noted_at", "<", self.now() - older_than)]
        rows = self.query(what, MARK, old, projection=["__key__"], limit=limit)
        self.delete(what, [row.path for row in rows])
        return len(rows)


def _touch(attempt: Try, *, path: Path, now: datetime) -> None:
    """Keep the mark of a chain that goes on for months."""
    row = attempt.get(path)
    if row is not None:
        attempt.put(replace(row, values={**row.values, "noted_at": now}))
