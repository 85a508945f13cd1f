"""Keeps payloads, late starts and notes of upkeep in Datastore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cloudtask.exceptions import PayloadLost
from cloudtask.stores import AlreadyDone, Upkeep
from cloudtask.stores.datastore import blobs
from cloudtask.stores.datastore.access import (
    Access,
    Filter,
    Path,
    Row,
    Try,
    in_groups,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.client import named
from cloudtask.stores.datastore.entities import moment
from cloudtask.stores.datastore.fitting import KINDS

PAYLOAD = "CloudtaskPayload"
START = "CloudtaskLateStart"
UPKEEP = "CloudtaskUpkeep"

PRUNED = 10  # payloads in one transaction: with all their chunks under 500 mutations


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

        def work(attempt: Try) -> None:
            replaced = blobs.paths(attempt.get(path))
            attempt.put(_payload(path, blob, saved_at=now), *last)
            attempt.delete(*replaced)

        self.transact(what, work)

    def load_payload(self, key: str) -> bytes:
        what, before = f"Loading payload {key}", None
        while True:
            [row] = self.get(what, (PAYLOAD, key))
            if row is None:
                raise PayloadLost(
                    f"The payload {key!r} is not in Datastore ({named(self.place)})."
                )
            if row.misfit:
                raise PayloadLost(row.why)
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

        def work(attempt: Try) -> None:
            row = attempt.get(path)
            if row is not None:
                attempt.put(_payload(path, None, saved_at=now))
                attempt.delete(*blobs.paths(row))

        self.transact(f"Finishing payload {key}", work)

    def touch_payload(self, key: str) -> None:
        path, now = (PAYLOAD, key), self.now()

        def work(attempt: Try) -> None:
            row = attempt.get(path)
            if row is not None:
                attempt.put(replace(row, values={**row.values, "saved_at": now}))

        self.transact(f"Keeping payload {key}", work)

    def delete_payload(self, key: str) -> None:
        self.transact(
            f"Deleting payload {key}",
            lambda attempt: deleted(attempt, (PAYLOAD, key)),
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


def deleted(attempt: Try, path: Path) -> bool:
    """Delete a row with its chunks; returns whether there was one."""
    row = attempt.get(path)
    if row is None:
        return attempt.is_doubtful
    attempt.delete(path, *blobs.paths(row))
    return True


def _pruning(paths: Sequence[Path], before: datetime) -> Callable[[Try], int]:
    def work(attempt: Try) -> int:
        rows = attempt.get_all(*paths)
        # Not those that were saved again since the query.
        old = [row for row in rows if row and row.values["saved_at"] < before]
        for row in old:
            attempt.delete(row.path, *blobs.paths(row))
        return len(paths) if attempt.is_doubtful else len(old)

    return work


class DatastoreStarts(Access):
    """The part of DatastoreStore that counts late starts, and notes upkeep."""

    def note_start(self, key: str) -> int:
        path, now = (START, key), self.now()

        def work(attempt: Try) -> int:
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

    def unreadable(self, limit: int) -> list[str]:
        what = "Looking for records that can't be read"
        rows = (row for kind in KINDS for row in self.query(what, kind, limit=limit))
        return [row.why for row in rows if row.misfit]

    def note_upkeep(self, job: str, report: str) -> None:
        values = {"ran_at": self.now(), "report": report}
        self.put(f"Noting that {job} ran", [Row((UPKEEP, job), values)])

    def upkeep(self) -> dict[str, Upkeep]:
        rows = self.query("Looking when the relay ran", UPKEEP)
        # A note that can't be read is none: the job notes again that it ran.
        return {row.path[-1]: self._upkeep(row) for row in rows if not row.misfit}

    def _upkeep(self, row: Row) -> Upkeep:
        ran_at = moment(row.values["ran_at"])
        return Upkeep(
            job=row.path[-1],
            ran_at=ran_at,
            age=self.now() - ran_at,
            report=row.values["report"],
        )
