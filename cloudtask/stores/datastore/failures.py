"""Rows that failed, in Datastore: an entity each, named by the digest of the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cloudtask.runs import GIVEN_UP, FailureState, RowFailure, Shard, ShardState
from cloudtask.stores.datastore.access import (
    Access,
    Attempt,
    Path,
    beginning,
    in_groups,
    names_beginning,
)
from cloudtask.stores.datastore.entities import (
    FAILURE,
    failure_of,
    failure_path,
    failure_row,
    failures_of,
    shard_of,
    shard_path,
    shard_row,
)

REOPENED = 15  # rows in one transaction: read at once, each may have 200 KB of text


class DatastoreFailures(Access):
    """The part of DatastoreStore that keeps the rows that failed."""

    def record_failure(self, failure: RowFailure, *, delay: timedelta) -> None:
        row = failure_row(failure, self.now() + delay)
        self.put(f"Recording a failed row of {failure.run}", [row])

    def resolve_failure(self, run_id: str, key: str) -> None:
        self.delete(f"Resolving a failed row of {run_id}", [failure_path(run_id, key)])

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        what = f"Loading the failed rows of {run_id}"
        filters = [*names_beginning(FAILURE, f"{run_id}:")]
        if shard is not None:
            filters.append(("shard", "=", shard))
        return [
            failure_of(row) for row in self.query(what, FAILURE, filters, limit=limit)
        ]

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        what, now = f"Loading the rows of {run_id} that wait", self.now()
        waiting = beginning("due", failures_of(run_id, shard))
        # One more than wanted: it tells when to come again.
        rows = self.query(what, FAILURE, waiting, order="due", limit=limit + 1)
        found = [failure_of(row) for row in rows]
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

    def reopen_failures(self, run_id: str) -> int:
        """Some rows of one shard at a time, each time with their shard: what was
        interrupted is right as far as it came, and a second call does the rest."""
        what, now = f"Reopening the failed rows of {run_id}", self.now()
        reopened = 0
        for index, paths in self._given_up(what, run_id).items():
            for some in in_groups(paths, REOPENED):
                reopened += self.transact(
                    what, _reopening(shard_path(run_id, index), some, now)
                )
        return reopened

    def _given_up(self, what: str, run_id: str) -> dict[int, list[Path]]:
        """The failures of each shard that wait for nothing."""
        given_up = beginning("given_up", f"{run_id}:")
        found: dict[int, list[Path]] = {}
        for row in self.query(what, FAILURE, given_up, projection=["given_up"]):
            index = int(row.values["given_up"].rpartition(":")[2])
            found.setdefault(index, []).append(row.path)
        return found


def _reopening(
    shard: Path, failures: Sequence[Path], now: datetime
) -> Callable[[Attempt], int]:
    def work(attempt: Attempt) -> int:
        row = attempt.get(shard)
        rows = [failure_of(one) for one in attempt.get_all(*failures) if one]
        given_up = [one for one in rows if one.state in GIVEN_UP]
        for failure in given_up:
            again = replace(failure, state=FailureState.WAITING, attempts=0)
            attempt.put(failure_row(again, now))
        if row and given_up:
            attempt.put(shard_row(_reopened(shard_of(row), len(given_up)), now))
        return len(given_up)

    return work


def _reopened(shard: Shard, rows: int) -> Shard:
    from_failed = min(shard.failed, rows)
    return replace(
        shard,
        state=ShardState.WAITING,
        seq=shard.seq + 1,
        lease_until=None,
        failed=shard.failed - from_failed,
        skipped=shard.skipped - min(shard.skipped, rows - from_failed),
    )
