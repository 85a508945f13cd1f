"""Keeps the rows that failed in Datastore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cloudtask.runs import RowFailure
from cloudtask.stores.datastore.access import (
    Access,
    Path,
    Try,
    in_groups,
)
from cloudtask.stores.datastore.entities import (
    FAILURE,
    digest_of,
    failure_of,
    failure_row,
    failures_of,
    shard_of,
    shard_path,
    shard_row,
)
from cloudtask.stores.datastore.lists import shown
from cloudtask.stores.datastore.prefixes import after, beginning, names_beginning
from cloudtask.stores.sealing import opened_key
from cloudtask.stores.shards import ShardStore
from cloudtask.transitions import reopened, row_reopened

AT_ONCE = 15  # rows in one transaction: read at once, each may have 200 KB of text


class DatastoreRowFailures(Access, ShardStore):
    """The part of DatastoreStore that keeps failed rows."""

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        what = f"Loading the failed rows of {run_id}"
        filters = [*names_beginning(FAILURE, f"{run_id}:")]
        if shard is not None:
            filters.append(("shard", "=", shard))
        rows = self.query(what, FAILURE, filters, limit=limit)
        return [shown(row) for row in rows]

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        what, now = f"Loading the rows of {run_id} that wait", self.now()
        waiting = beginning("due", failures_of(run_id, shard))
        # One extra row shows when the next one is due.
        rows = self.query(what, FAILURE, waiting, order="due", limit=limit + 1)
        with self._refusing(run_id):
            for row in rows:
                row.check()
            found = [
                failure_of(
                    row, key=opened_key(run_id, digest_of(row.path), row.values["key"])
                )
                for row in rows
            ]
        due = [one for one in found if one.due_at and one.due_at <= now][:limit]
        if len(found) == len(due):
            return due, None
        following = found[len(due)].due_at or now
        return due, max(0.0, (following - now).total_seconds())

    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        what, prefix = f"Counting the failed rows of {run_id}", f"{run_id}:"
        if given_up:
            return self.count(what, FAILURE, beginning("given_up", prefix))
        return self.count(what, FAILURE, names_beginning(FAILURE, prefix))

    def ids_with_failures(self, limit: int) -> list[str]:
        """With a query for each: a run may have a million failed rows."""
        what, found = "Looking for iterations with failed rows", list[str]()
        place = ""
        while len(found) < limit:
            rows = self.query(
                what,
                FAILURE,
                [("given_up", ">", place)],
                order="given_up",
                projection=["given_up"],
                limit=1,
            )
            if not rows:
                break
            found.append(rows[0].values["given_up"].partition(":")[0])
            place = after(f"{found[-1]}:")
        return found

    def discard_failures(self, run_id: str) -> int:
        what, discarded = f"Discarding the failed rows of {run_id}", 0
        for paths in self._given_up(what, run_id).values():
            for some in in_groups(paths, AT_ONCE):
                discarded += self.transact(what, partial(_discard, some))
        return discarded

    def reopen_failures(self, run_id: str) -> int:
        """Some rows of one shard at a time, each time with their shard. If a call is
        interrupted, another call does the rest."""
        what, opened = f"Reopening the failed rows of {run_id}", 0
        for index, paths in self._given_up(what, run_id).items():
            for some in in_groups(paths, AT_ONCE):
                opened += self.transact(what, self._reopening(run_id, index, some))
        return opened

    def _given_up(self, what: str, run_id: str) -> dict[int, list[Path]]:
        """The paths of the failures in GIVEN_UP, by shard."""
        given_up = beginning("given_up", f"{run_id}:")
        found: dict[int, list[Path]] = {}
        for row in self.query(what, FAILURE, given_up, projection=["given_up"]):
            index = int(row.values["given_up"].rpartition(":")[2])
            found.setdefault(index, []).append(row.path)
        return found

    def _reopening(
        self, run_id: str, index: int, failures: Sequence[Path]
    ) -> Callable[[Try], int]:
        now = self.now()

        def work(attempt: Try) -> int:
            shard, *rows = attempt.get_all(shard_path(run_id, index), *failures)
            opened = 0
            for row in filter(None, rows):
                if waiting := row_reopened(failure_of(row)):
                    attempt.put(failure_row(row.path, waiting, now))
                    opened += 1
            if shard and opened:
                again = reopened(shard_of(shard), rows=opened)
                attempt.put(shard_row(again, now))
            return opened

        return work


def _discard(paths: Sequence[Path], attempt: Try) -> int:
    rows = attempt.get_all(*paths)
    given_up = [row.path for row in rows if row and "given_up" in row.values]
    attempt.delete(*given_up)
    gone = rows.count(None) if attempt.is_doubtful else 0
    return len(given_up) + gone
