"""Failed rows of iterations in a relational database."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F

from cloudtask.clock import database_now as now
from cloudtask.runs import GIVEN_UP, FailureState, RowFailure, ShardState
from cloudtask.stores.database.rows import IterationRows, digest_of, failure_of


class DatabaseFailures(IterationRows):
    """The part of DatabaseStore that keeps failed rows."""

    def record_failure(self, failure: RowFailure, *, delay: timedelta) -> None:
        values = {
            "key": failure.key,
            "shard": failure.shard,
            "state": failure.state,
            "attempts": failure.attempts,
            "error": failure.error,
            "traceback": failure.traceback,
            "due_at": now() + delay,
        }
        digest = digest_of(failure.key)
        with self.reachable(f"Recording a failed row of {failure.run}"):
            rows = self._failures.filter(run_id=failure.run, digest=digest)
            if not rows.update(**values):
                self._failures.create(run_id=failure.run, digest=digest, **values)

    def resolve_failure(self, run_id: str, key: str) -> None:
        with self.reachable(f"Resolving a failed row of {run_id}"):
            self._failures.filter(run_id=run_id, digest=digest_of(key)).delete()

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        rows = self._failures.filter(run_id=run_id)
        if shard is not None:
            rows = rows.filter(shard=shard)
        with self.reachable(f"Loading the failed rows of {run_id}"):
            return [failure_of(row) for row in rows.order_by("pk")[:limit]]

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        rows = self._failures.filter(
            run_id=run_id, shard=shard, state=FailureState.WAITING
        ).order_by("due_at")
        with self.reachable(f"Loading the rows of {run_id} that wait"):
            # One query, one moment: in a second one a row could have become due that
            # was not yet in the first. One more than wanted tells when to come again.
            found = list(rows.annotate(now=now())[: limit + 1])
        due = [failure_of(row) for row in found if row.due_at <= row.now][:limit]
        if len(found) == len(due):
            return due, None
        following = found[len(due)]
        return due, max(0.0, (following.due_at - following.now).total_seconds())

    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        rows = self._failures.filter(run_id=run_id)
        if given_up:
            rows = rows.filter(state__in=GIVEN_UP)
        with self.reachable(f"Counting the failed rows of {run_id}"):
            return rows.count()

    def reopen_failures(self, run_id: str) -> int:
        with self.reachable(f"Reopening the failed rows of {run_id}"):
            given_up = self._failures.filter(run_id=run_id, state__in=GIVEN_UP)
            reopened = 0
            for index in sorted(set(given_up.values_list("shard", flat=True))):
                rows = given_up.filter(shard=index).update(
                    state=FailureState.WAITING, due_at=now(), attempts=0
                )
                self._reopen_shard(run_id, index, rows)
                reopened += rows
            return reopened

    def _reopen_shard(self, run_id: str, index: int, rows: int) -> None:
        shard = self._shards.select_for_update().get(run_id=run_id, index=index)
        from_failed = min(shard.failed, rows)
        self._shards.filter(pk=shard.pk).update(
            state=ShardState.WAITING,
            seq=F("seq") + 1,
            lease_until=None,
            failed=F("failed") - from_failed,
            skipped=F("skipped") - min(shard.skipped, rows - from_failed),
            touched_at=now(),
        )
