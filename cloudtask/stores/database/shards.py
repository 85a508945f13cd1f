"""Shards in a relational database: each change is one conditional statement."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, When

from cloudtask.clock import database_now as now
from cloudtask.runs import (
    MOST_DOUBLINGS,
    FailureState,
    LeaseLost,
    RowFailure,
    RunState,
    Shard,
    ShardState,
    Walked,
)
from cloudtask.stores.database.failures import DatabaseFailures
from cloudtask.stores.database.rows import no_live_lease, shard_of


class DatabaseShards(DatabaseFailures):
    """The part of DatabaseStore that keeps shards; a checkpoint may also record that a
    row failed."""

    def load_shards(self, run_id: str) -> list[Shard]:
        with self.reachable(f"Loading the shards of iteration {run_id}"):
            return [
                shard_of(row)
                for row in self._shards.filter(run_id=run_id).order_by("index")
            ]

    def load_shard(self, run_id: str, index: int) -> Shard | None:
        with self.reachable(f"Loading shard {index} of iteration {run_id}"):
            row = self._shards.filter(run_id=run_id, index=index).first()
        return shard_of(row) if row else None

    def acquire(
        self,
        run_id: str,
        index: int,
        seq: int,
        *,
        lease: timedelta,
        budget: timedelta = timedelta(0),
    ) -> Shard | None:
        rows = self._shards.filter(run_id=run_id, index=index)
        free = rows.filter(no_live_lease(), self._running(run_id), seq=seq).exclude(
            state=ShardState.DONE
        )
        with self.reachable(f"Leasing shard {index} of iteration {run_id}"):
            taken = free.update(
                deaths=Case(
                    When(state=ShardState.RUNNING, then=F("deaths") + 1), default=0
                ),
                state=ShardState.RUNNING,
                fence=F("fence") + 1,
                lease_until=now() + lease,
                deadline_at=now() + budget,
                lived=0.0,
                sweeps=0,
                touched_at=now(),
            )
            return shard_of(rows.get()) if taken else None

    def _mine(self, shard: Shard) -> QuerySet[Any]:
        return self._shards.filter(
            run_id=shard.run,
            index=shard.index,
            fence=shard.fence,
            state=ShardState.RUNNING,
        )

    def checkpoint(
        self,
        shard: Shard,
        walked: Walked,
        *,
        lease: timedelta,
        suspect: str | None = None,
        failure: RowFailure | None = None,
        delay: timedelta = timedelta(0),
        resolved: str | None = None,
    ) -> bool:
        is_alive = walked.cursor != shard.cursor and suspect is None
        moved = {"deaths": 0} if is_alive else {}
        mine = self._mine(shard)
        if resolved is None:
            mine = mine.filter(self._running(shard.run))
        with self.reachable(f"Checkpoint of shard {shard.index} of {shard.run}"):
            written = mine.update(
                **_progress(walked),
                **moved,
                suspect=suspect,
                lease_until=now() + lease,
                touched_at=now(),
            )
            if written and failure is not None:
                self.record_failure(failure, delay=delay)
            if written and resolved is not None:
                self.resolve_failure(shard.run, resolved)
            return bool(written)

    def release(
        self, shard: Shard, walked: Walked, *, split: Shard | None = None
    ) -> Shard | None:
        cut = {}
        if split is not None:
            left = max(0, shard.expected - split.expected)
            cut = {"high": split.low, "expected": left}
        with self.reachable(f"Releasing shard {shard.index} of {shard.run}"):
            if not self._mine(shard).update(
                **_progress(walked),
                **cut,
                **_RESTING,
                state=ShardState.WAITING,
                seq=F("seq") + 1,
                touched_at=now(),
            ):
                raise LeaseLost(f"{shard.run}[{shard.index}]")
            return self._inserted(split) if split is not None else None

    def _inserted(self, split: Shard) -> Shard:
        """`split` under the next index; two splits at once are told apart by the
        unique constraint."""
        # The run's row serializes whatever adds shards to it.
        self._runs.filter(pk=split.run).update(touched_at=now())
        placed = replace(split, index=self._next_index(split.run))
        self._shard_row(placed).save(using=self.database, force_insert=True)
        return placed

    def complete(self, shard: Shard, walked: Walked) -> bool:
        with self.reachable(f"Completing shard {shard.index} of {shard.run}"):
            return bool(
                self._mine(shard).update(
                    **_progress(walked),
                    **_RESTING,
                    state=ShardState.DONE,
                    touched_at=now(),
                )
            )

    def give_back(
        self, shard: Shard, walked: Walked | None, *, is_killed: bool = False
    ) -> bool:
        values = _progress(walked) if walked else {}
        if not is_killed:
            values |= _RESTING | {"state": ShardState.WAITING}
        elif walked and walked.cursor != shard.cursor:
            values |= {
                "deaths": Case(When(suspect__isnull=False, then=F("deaths")), default=0)
            }
        with self.reachable(f"Giving back shard {shard.index} of {shard.run}"):
            return bool(
                self._mine(shard).update(
                    **values | {"lease_until": None, "deadline_at": None},
                    touched_at=now(),
                )
            )

    def is_at_work(self, run_id: str) -> bool:
        with self.reachable(f"Looking who walks iteration {run_id}"):
            return self._shards.filter(_walked(), run_id=run_id).exists()

    def touch_shard(self, shard: Shard) -> None:
        rows = self._shards.filter(run_id=shard.run, index=shard.index)
        with self.reachable(f"Touching shard {shard.index} of {shard.run}"):
            rows.update(sweeps=0, touched_at=now())

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        # A row that waits for its next try keeps its shard's task waiting, too.
        resting = self._failures.filter(
            run_id=OuterRef("run_id"),
            shard=OuterRef("index"),
            state=FailureState.WAITING,
            due_at__gt=now(),
        )
        rows = self._shards.filter(
            ~_walked(),
            Q(is_walked=False) | ~Exists(resting),
            _untouched(older_than),
            run__state=RunState.RUNNING,
        ).exclude(state=ShardState.DONE)
        with self.reachable("Looking for lost shards"):
            return [shard_of(row) for row in rows.order_by("touched_at")[:limit]]

    def bump_shard(self, shard: Shard, *, sweeps: int = 0) -> Shard | None:
        rows = self._shards.filter(run_id=shard.run, index=shard.index)
        with self.reachable(f"Renumbering shard {shard.index} of {shard.run}"):
            free = rows.filter(~_walked(), seq=shard.seq)
            bumped = free.exclude(state=ShardState.DONE).update(
                seq=F("seq") + 1, sweeps=sweeps, touched_at=now()
            )
            return shard_of(rows.get()) if bumped else None


_RESTING = {"deaths": 0, "suspect": None, "lease_until": None, "deadline_at": None}


def _walked() -> Q:
    """Shards that somebody may be walking."""
    alive = ~no_live_lease() | Q(deadline_at__gt=now())
    return Q(alive, state=ShardState.RUNNING)


def _untouched(older_than: timedelta) -> Q:
    """Shards that nothing has touched for so long, and longer if they were swept."""
    found = Q()
    for sweeps in range(MOST_DOUBLINGS + 1):
        swept = {"sweeps" if sweeps < MOST_DOUBLINGS else "sweeps__gte": sweeps}
        found |= Q(touched_at__lt=now() - older_than * 2**sweeps, **swept)
    return found


def _progress(walked: Walked) -> dict[str, Any]:
    return {
        "cursor": walked.cursor,
        "done": walked.done,
        "failed": walked.failed,
        "skipped": walked.skipped,
        "is_walked": walked.is_walked,
        "stride": walked.stride,
        "lived": walked.lived,
    }
