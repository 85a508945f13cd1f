"""Starts of calls beyond their last attempt, in Datastore: an entity each."""

from __future__ import annotations

from datetime import timedelta

from cloudtask.stores.datastore.access import Access, Attempt, Row

START = "CloudtaskLateStart"


class DatastoreStarts(Access):
    """The part of DatastoreStore that counts late starts."""

    def note_start(self, key: str) -> int:
        path, now = (START, key), self.now()

        def work(attempt: Attempt) -> int:
            row = attempt.get(path)
            starts: int = (row.values["starts"] if row else 0) + 1
            values = {"starts": starts, "noted_at": now}
            attempt.put(Row(path, values, ("noted_at",)))
            return starts

        return self.transact(f"Noting a start of {key}", work)

    def prune_starts(self, older_than: timedelta, limit: int) -> int:
        what = "Pruning late starts"
        old = [("noted_at", "<", self.now() - older_than)]
        rows = self.query(what, START, old, projection=["__key__"], limit=limit)
        self.delete(what, [row.path for row in rows])
        return len(rows)
