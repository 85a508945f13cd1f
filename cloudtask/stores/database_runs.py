"""Iteration in a relational database: each change is one conditional statement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import (
    Case,
    Exists,
    F,
    Max,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Value,
    When,
)
from django.utils import timezone

from cloudtask.clock import database_now as now
from cloudtask.stores.runs import (
    ENDED,
    STOPPED,
    FailureState,
    LeaseLost,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardState,
    Walked,
    states_before,
)

CHUNK = 512 * 1024  # bytes of a description: well under any server's packet limit


def _no_live_lease() -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now())


def _tables() -> Any:
    from cloudtask.stores import tables

    return tables


def _record(kind: type[Any], row: Model) -> Any:
    values = {f.name: getattr(row, _column(kind, f.name)) for f in fields(kind)}
    return kind(**{name: _aware(value, row) for name, value in values.items()})


def _aware(value: Any, row: Model) -> Any:
    """Moments of a project with USE_TZ=False as all others: what the database calls now
    is the project's time in PostgreSQL, and UTC elsewhere."""
    if not isinstance(value, datetime) or not timezone.is_naive(value):
        return value
    is_local = connections[row._state.db or "default"].vendor == "postgresql"
    return timezone.make_aware(value, None if is_local else UTC)


def _column(kind: type[Any], name: str) -> str:
    return "run_id" if name == "run" and kind is not Run else name


def _run(row: Model, chunks: QuerySet[Any]) -> Run:
    """`row` as a Run; its description lies in `chunks` when it is too large for it."""
    run: Run = _record(Run, row)
    description = bytes(run.description)
    if not description:
        parts = chunks.filter(run_id=run.id).order_by("index")
        description = b"".join(map(bytes, parts.values_list("data", flat=True)))
    return replace(
        run,
        state=RunState(run.state),
        description=description,
        options=bytes(run.options),
    )


def _shard(row: Model) -> Shard:
    shard: Shard = _record(Shard, row)
    return replace(shard, state=ShardState(shard.state))


def _failure(row: Model) -> RowFailure:
    failure: RowFailure = _record(RowFailure, row)
    return replace(failure, state=FailureState(failure.state))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class DatabaseRuns:
    """The part of DatabaseStore that implements `stores.runs.RunStore`."""

    alias: str

    def reachable(self, what: str) -> AbstractContextManager[None]:
        """A transaction whose connection errors are EnqueueUnavailable."""
        raise NotImplementedError  # DatabaseStore has it

    @property
    def _runs(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationRun.objects.using(self.alias)
        return rows

    @property
    def _shards(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationShard.objects.using(self.alias)
        return rows

    @property
    def _failures(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationFailure.objects.using(self.alias)
        return rows

    @property
    def _chunks(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationChunk.objects.using(self.alias)
        return rows

    # Runs

    def create_run(self, run: Run) -> None:
        values = {f.name: getattr(run, f.name) for f in fields(Run)}
        values |= {"created_at": now(), "touched_at": now()}
        with self.reachable(f"Creating iteration {run.id}"):
            inline = self._inline(run.description)
            self._runs.create(**values | {"description": inline})
            self._save_chunks(run.id, run.description)

    @staticmethod
    def _inline(description: bytes) -> bytes:
        """What of a description lies in the row of its run: all or nothing."""
        return description if len(description) <= CHUNK else b""

    def _save_chunks(self, run_id: str, description: bytes) -> None:
        self._chunks.filter(run_id=run_id).delete()
        if self._inline(description) == description:
            return
        for index, start in enumerate(range(0, len(description), CHUNK)):
            data = description[start : start + CHUNK]
            self._chunks.create(run_id=run_id, index=index, data=data)

    def load_run(self, run_id: str) -> Run | None:
        with self.reachable(f"Loading iteration {run_id}"):
            row = self._runs.filter(pk=run_id).first()
            return _run(row, self._chunks) if row else None

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        rows = self._runs.order_by("-created_at", "pk")
        if states:
            rows = rows.filter(state__in=states)
        with self.reachable("Listing iterations"):
            return [_run(row, self._chunks) for row in rows[:limit]]

    def change_run(
        self,
        run_id: str,
        *,
        to: RunState,
        only_from: Sequence[RunState],
        error: str | None = None,
        description: bytes | None = None,
    ) -> bool:
        values: dict[str, Any] = {
            "state": to,
            "generation": F("generation") + 1,
            "touched_at": now(),
        }
        if to is RunState.RUNNING:
            values["started_at"] = Case(
                When(started_at__isnull=True, then=now()), default=F("started_at")
            )
        if error is not None:
            values["error"] = error
        if description is not None:
            values["description"] = self._inline(description)
        allowed = set(only_from).intersection(states_before(to))
        with self.reachable(f"Changing iteration {run_id}"):
            rows = self._runs.filter(pk=run_id, state__in=allowed)
            changed = bool(rows.update(**values))
            if changed and description is not None:
                self._save_chunks(run_id, description)
            return changed

    def set_plan(self, run_id: str, shards: Sequence[Shard], *, total: int) -> bool:
        with self.reachable(f"Planning iteration {run_id}"):
            planned = self._runs.filter(pk=run_id, is_planned=False).exclude(
                state__in=ENDED
            )
            if not planned.update(
                is_planned=True,
                total=total,
                touched_at=now(),
                started_at=now(),
                state=Case(
                    When(state=RunState.PLANNING, then=Value(RunState.RUNNING)),
                    default=F("state"),
                ),
            ):
                return False
            self._shards.bulk_create([self._shard_row(shard) for shard in shards])
            return True

    def _shard_row(self, shard: Shard) -> Model:
        values = {_column(Shard, f.name): getattr(shard, f.name) for f in fields(Shard)}
        row: Model = _tables().IterationShard(**values, touched_at=now())
        return row

    def acquire_run(
        self, run_id: str, *, state: RunState, lease: timedelta
    ) -> Run | None:
        rows = self._runs.filter(pk=run_id)
        with self.reachable(f"Leasing iteration {run_id}"):
            taken = rows.filter(_no_live_lease(), state=state).update(
                fence=F("fence") + 1, lease_until=now() + lease, touched_at=now()
            )
            return _run(rows.get(), self._chunks) if taken else None

    def settle_run(self, run: Run, *, to: RunState | None, error: str = "") -> bool:
        values: dict[str, Any] = {
            "lease_until": None,
            "touched_at": now(),
            "error": error,
        }
        rows = self._runs.filter(pk=run.id, fence=run.fence)
        if to is not None:
            values["state"] = to
            rows = rows.filter(state__in=states_before(to))
        if to in ENDED:
            # Kept from the first end on: it tells that finalize has run.
            values["finished_at"] = Case(
                When(finished_at__isnull=True, then=now()), default=F("finished_at")
            )
        with self.reachable(f"Settling iteration {run.id}"):
            return bool(rows.update(**values))

    def try_finalize(self, run_id: str) -> bool:
        undone = self._shards.filter(run_id=run_id).exclude(state=ShardState.DONE)
        with self.reachable(f"Finalizing iteration {run_id}"):
            ready = self._runs.filter(
                ~Exists(undone), pk=run_id, state=RunState.RUNNING, is_planned=True
            )
            return bool(
                ready.update(
                    state=RunState.FINALIZING,
                    generation=F("generation") + 1,
                    touched_at=now(),
                )
            )

    def delete_run(self, run_id: str) -> None:
        with self.reachable(f"Deleting iteration {run_id}"):
            self._failures.filter(run_id=run_id).delete()
            self._shards.filter(run_id=run_id).delete()
            self._chunks.filter(run_id=run_id).delete()
            self._runs.filter(pk=run_id).delete()

    # Shards

    def load_shards(self, run_id: str) -> list[Shard]:
        with self.reachable(f"Loading the shards of iteration {run_id}"):
            return [
                _shard(row)
                for row in self._shards.filter(run_id=run_id).order_by("index")
            ]

    def load_shard(self, run_id: str, index: int) -> Shard | None:
        with self.reachable(f"Loading shard {index} of iteration {run_id}"):
            row = self._shards.filter(run_id=run_id, index=index).first()
        return _shard(row) if row else None

    def _running(self, run_id: str) -> Exists:
        return Exists(self._runs.filter(pk=run_id, state=RunState.RUNNING))

    def acquire(
        self, run_id: str, index: int, seq: int, *, lease: timedelta
    ) -> Shard | None:
        rows = self._shards.filter(run_id=run_id, index=index)
        free = rows.filter(_no_live_lease(), self._running(run_id), seq=seq).exclude(
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
                touched_at=now(),
            )
            return _shard(rows.get()) if taken else None

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
        moved = {} if walked.cursor == shard.cursor else {"deaths": 0}
        with self.reachable(f"Checkpoint of shard {shard.index} of {shard.run}"):
            mine = self._mine(shard).filter(self._running(shard.run))
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
                state=ShardState.WAITING,
                seq=F("seq") + 1,
                deaths=0,
                suspect=None,
                lease_until=None,
                touched_at=now(),
            ):
                raise LeaseLost(f"{shard.run}[{shard.index}]")
            return self._inserted(split) if split is not None else None

    def _inserted(self, split: Shard) -> Shard:
        """`split` under the next index; two splits at once are told apart by the
        unique constraint."""
        # The run's row serializes the splits of its shards.
        self._runs.filter(pk=split.run).update(touched_at=now())
        last = self._shards.filter(run_id=split.run).aggregate(last=Max("index"))[
            "last"
        ]
        placed = replace(split, index=last + 1)
        self._shard_row(placed).save(using=self.alias, force_insert=True)
        return placed

    def complete(self, shard: Shard, walked: Walked) -> bool:
        with self.reachable(f"Completing shard {shard.index} of {shard.run}"):
            return bool(
                self._mine(shard).update(
                    **_progress(walked),
                    state=ShardState.DONE,
                    deaths=0,
                    suspect=None,
                    lease_until=None,
                    touched_at=now(),
                )
            )

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        # A row that waits for its next try keeps its shard's task waiting, too.
        resting = self._failures.filter(
            run_id=OuterRef("run_id"),
            shard=OuterRef("index"),
            state=FailureState.WAITING,
            due_at__gt=now(),
        )
        rows = self._shards.filter(
            _no_live_lease(),
            Q(is_walked=False) | ~Exists(resting),
            run__state=RunState.RUNNING,
            touched_at__lt=now() - older_than,
        ).exclude(state=ShardState.DONE)
        with self.reachable("Looking for lost shards"):
            return [_shard(row) for row in rows.order_by("touched_at")[:limit]]

    def bump_shard(self, shard: Shard) -> Shard | None:
        rows = self._shards.filter(run_id=shard.run, index=shard.index)
        with self.reachable(f"Renumbering shard {shard.index} of {shard.run}"):
            free = rows.filter(_no_live_lease(), seq=shard.seq)
            bumped = free.exclude(state=ShardState.DONE).update(
                seq=F("seq") + 1, touched_at=now()
            )
            return _shard(rows.get()) if bumped else None

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        undone = self._shards.filter(run_id=OuterRef("pk"))
        undone = undone.exclude(state=ShardState.DONE)
        owing = (
            Q(state__in=[RunState.PLANNING, RunState.FINALIZING])
            | Q(state__in=STOPPED, finished_at=None)
            | (Q(state=RunState.RUNNING) & ~Exists(undone))
        )
        rows = self._runs.filter(
            owing, _no_live_lease(), touched_at__lt=now() - older_than
        )
        with self.reachable("Looking for lost iterations"):
            found = rows.order_by("touched_at")[:limit]
            return [_run(row, self._chunks) for row in found]

    def bump_run(self, run: Run) -> Run | None:
        rows = self._runs.filter(pk=run.id)
        with self.reachable(f"Renumbering iteration {run.id}"):
            bumped = rows.filter(
                _no_live_lease(), generation=run.generation, state=run.state
            ).update(generation=F("generation") + 1, touched_at=now())
            return _run(rows.get(), self._chunks) if bumped else None

    # Failures

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
        digest = _digest(failure.key)
        with self.reachable(f"Recording a failed row of {failure.run}"):
            rows = self._failures.filter(run_id=failure.run, digest=digest)
            if not rows.update(**values):
                self._failures.create(run_id=failure.run, digest=digest, **values)

    def resolve_failure(self, run_id: str, key: str) -> None:
        with self.reachable(f"Resolving a failed row of {run_id}"):
            self._failures.filter(run_id=run_id, digest=_digest(key)).delete()

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        rows = self._failures.filter(run_id=run_id)
        if shard is not None:
            rows = rows.filter(shard=shard)
        with self.reachable(f"Loading the failed rows of {run_id}"):
            return [_failure(row) for row in rows.order_by("pk")[:limit]]

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        rows = self._failures.filter(
            run_id=run_id, shard=shard, state=FailureState.WAITING
        ).order_by("due_at")
        with self.reachable(f"Loading the rows of {run_id} that wait"):
            # One more than wanted: whether more of them are due than that.
            found = rows.filter(due_at__lte=now())[: limit + 1]
            due = [_failure(row) for row in found]
            if len(due) > limit:
                return due[:limit], 0.0
            later = rows.filter(due_at__gt=now()).annotate(now=now()).first()
        if later is None:
            return due, None
        return due, max(0.0, (later.due_at - later.now).total_seconds())

    def count_failures(self, run_id: str) -> int:
        with self.reachable(f"Counting the failed rows of {run_id}"):
            return self._failures.filter(run_id=run_id).count()

    def reopen_failures(self, run_id: str) -> int:
        with self.reachable(f"Reopening the failed rows of {run_id}"):
            given_up = self._failures.filter(run_id=run_id).exclude(
                state=FailureState.WAITING
            )
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


def _progress(walked: Walked) -> dict[str, Any]:
    return {
        "cursor": walked.cursor,
        "done": walked.done,
        "failed": walked.failed,
        "skipped": walked.skipped,
        "is_walked": walked.is_walked,
    }
