"""Keeps payloads, failed tasks, and starts after the last attempt in Datastore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cloudtask.exceptions import PayloadLost
from cloudtask.stores import AlreadyDone, FailedCall
from cloudtask.stores.datastore import blobs
from cloudtask.stores.datastore.access import (
    Access,
    Attempt,
    Filter,
    Path,
    Row,
    beginning,
    in_groups,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import moment, shortened, sortable

PAYLOAD = "CloudtaskPayload"
FAILED = "CloudtaskFailedTask"
START = "CloudtaskLateStart"

PRUNED = 10  # payloads in one transaction: with all their chunks under 500 mutations
LARGE = 500_000  # bytes of a failed task's envelope that lie in its own entity


class DatastorePayloads(Access):
    """The part of DatastoreStore that keeps payloads."""

    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        """Save a payload completely or not at all, in any number of commits.

        The entity that names the chunks is written last, together with the last few
        chunks. The save joins no transaction of a database.
        """
        what, path, now = f"Saving payload {key}", (PAYLOAD, key), self.now()
        blob = Blob.of(data)
        last = blobs.save(self, what, path, blob, data, saved_at=now)

        def work(attempt: Attempt) -> None:
            replaced = blobs.paths(attempt.get(path))
            attempt.put(_payload(path, blob, saved_at=now), *last)
            attempt.delete(*replaced)

        self.transact(what, work)

    def load_payload(self, key: str) -> bytes:
        what, before = f"Loading payload {key}", None
        while True:
            [row] = self.get(what, (PAYLOAD, key))
            if row is None:
                raise PayloadLost(f"The payload {key!r} is not in the store.")
            if row.values["is_done"]:
                raise AlreadyDone(key)
            data = blobs.load(self, what, row)
            if data is not None:
                return data
            # Nothing locks the chunks: they may have been replaced meanwhile.
            if row.values["blob_name"] == before:
                raise PayloadLost(
                    f"The payload {key!r} is damaged: its chunks in Datastore are "
                    "missing or not what was saved."
                )
            before = row.values["blob_name"]

    def finish_payload(self, key: str) -> None:
        path, now = (PAYLOAD, key), self.now()

        def work(attempt: Attempt) -> None:
            row = attempt.get(path)
            if row is not None:
                attempt.put(_payload(path, None, saved_at=now))
                attempt.delete(*blobs.paths(row))

        self.transact(f"Finishing payload {key}", work)

    def touch_payload(self, key: str) -> None:
        path, now = (PAYLOAD, key), self.now()

        def work(attempt: Attempt) -> None:
            row = attempt.get(path)
            if row is not None:
                attempt.put(replace(row, values={**row.values, "saved_at": now}))

        self.transact(f"Keeping payload {key}", work)

    def delete_payload(self, key: str) -> None:
        self.transact(
            f"Deleting payload {key}",
            lambda attempt: _delete(attempt, (PAYLOAD, key)),
        )

    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        what, before = "Pruning payloads", self.now() - older_than
        old = [("saved_at", "<", before)]
        found = self.query(what, PAYLOAD, old, projection=["__key__"], limit=limit)
        gone = 0
        for some in in_groups([row.path for row in found], PRUNED):
            gone += self.transact(what, _pruning(some, before))
        self._sweep(what, old)
        return gone

    def _sweep(self, what: str, old: Sequence[Filter]) -> None:
        """Delete old chunks of saves that were not completed."""
        chunks = self.query(what, blobs.CHUNK_KIND, old, projection=["__key__"])
        paths = [chunk.path for chunk in chunks]
        owners = list(dict.fromkeys(path[:2] for path in paths))
        owned = {path for row in self.get(what, *owners) for path in blobs.paths(row)}
        self.delete(what, [path for path in paths if path not in owned])


def _payload(path: Path, blob: Blob | None, *, saved_at: datetime) -> Row:
    values = blob.values if blob else blobs.NOTHING
    return Row(
        path, {**values, "is_done": blob is None, "saved_at": saved_at}, ("saved_at",)
    )


def _delete(attempt: Attempt, path: Path) -> bool:
    row = attempt.get(path)
    if row is None:
        return attempt.is_doubtful
    attempt.delete(path, *blobs.paths(row))
    return True


def _pruning(paths: Sequence[Path], before: datetime) -> Callable[[Attempt], int]:
    def work(attempt: Attempt) -> int:
        rows = attempt.get_all(*paths)
        # Not those that were saved again since the query.
        old = [row for row in rows if row and row.values["saved_at"] < before]
        for row in old:
            attempt.delete(row.path, *blobs.paths(row))
        return len(paths) if attempt.is_doubtful else len(old)

    return work


class DatastoreFailedCalls(Access):
    """The part of DatastoreStore that keeps failed tasks."""

    def save_failed(self, failed: FailedCall) -> None:
        what, path = f"Keeping failed task {failed.key}", (FAILED, failed.key)
        blob = Blob.of(failed.envelope, inline=LARGE)
        last = blobs.save(self, what, path, blob, failed.envelope)
        row = _failed_row(path, failed, blob, self.now())

        def work(attempt: Attempt) -> None:
            replaced = blobs.paths(attempt.get(path))
            attempt.put(row, *last)
            attempt.delete(*replaced)

        self.transact(what, work)

    def load_failed(self, key: str) -> FailedCall | None:
        what = f"Loading failed task {key}"
        [row] = self.get(what, (FAILED, key))
        if row is None:
            return None
        envelope = blobs.load(self, what, row)
        if envelope is None:
            raise PayloadLost(
                f"The failed task {key!r} is damaged: the chunks of its envelope are "
                "missing or not what was saved."
            )
        return _failed_call(row, envelope)

    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        what, order = "Listing failed tasks", "-failed_at"
        filters = beginning("place", _place(task)) if task is not None else ()
        if filters:
            order = "-place"
        rows = self.query(what, FAILED, filters, order=order, limit=limit)
        return [_failed_call(row, b"") for row in rows]

    def delete_failed(self, key: str) -> bool:
        return self.transact(
            f"Deleting failed task {key}",
            lambda attempt: _delete(attempt, (FAILED, key)),
        )

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        old = [("failed_at", "<", self.now() - older_than)]
        rows = self.query(
            "Listing old failed tasks",
            FAILED,
            old,
            projection=["__key__"],
            limit=limit,
        )
        return [row.path[-1] for row in rows]


_KEPT = ("task", "queue", "name", "arguments", "error", "traceback", "attempts")


def _place(task: str) -> str:
    """The prefix of the places of failed calls of `task`.

    It is a hash because a task's path may be longer than an index allows.
    """
    return hashlib.sha256(task.encode()).hexdigest() + " "


def _failed_row(path: Path, failed: FailedCall, blob: Blob, now: datetime) -> Row:
    values = {name: shortened(getattr(failed, name)) for name in _KEPT}
    values |= blob.values
    values |= {"enqueued_at": failed.enqueued_at, "failed_at": now}
    # By task and then by time, so that one property serves both.
    values["place"] = _place(failed.task) + sortable(now)
    return Row(path, values, ("failed_at", "place"))


def _failed_call(row: Row, envelope: bytes) -> FailedCall:
    values = {name: row.values[name] for name in _KEPT}
    return FailedCall(
        key=row.path[-1],
        envelope=envelope,
        enqueued_at=moment(row.values["enqueued_at"]),
        failed_at=moment(row.values["failed_at"]),
        **values,
    )


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
