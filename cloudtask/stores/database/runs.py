"""Runs in a relational database: each change is one conditional statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

from django.db.models import Case, Exists, F, OuterRef, Q, Sum, Value, When

from cloudtask.clock import database_now as now
from cloudtask.runs import (
    ENDED,
    STOPPED,
    Run,
    RunState,
    Shard,
    ShardState,
    states_before,
)
from cloudtask.stores.database.rows import IterationRows, no_live_lease, run_of

CHUNK = 512 * 1024  # bytes of a description: well under any server's packet limit


class DatabaseRuns(IterationRows):
    """The part of DatabaseStore that keeps runs."""

    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        values = {f.name: getattr(run, f.name) for f in fields(Run)}
        due = None if delay is None else now() + delay
        values |= {"created_at": now(), "touched_at": now(), "due_at": due}
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
            return run_of(row, self._chunks) if row else None

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        rows = self._runs.order_by("-created_at", "pk")
        if states:
            rows = rows.filter(state__in=states)
        with self.reachable("Listing iterations"):
            return [run_of(row, self._chunks) for row in rows[:limit]]

    def change_run(
        self,
        run_id: str,
        *,
        to: RunState,
        only_from: Sequence[RunState],
        generation: int | None = None,
        error: str | None = None,
        description: bytes | None = None,
    ) -> bool:
        values = _entering(to)
        if to is RunState.RUNNING:
            values["started_at"] = _now_unless("started_at")
        if error is not None:
            values["error"] = error
        if description is not None:
            values["description"] = self._inline(description)
        allowed = set(only_from).intersection(states_before(to))
        with self.reachable(f"Changing iteration {run_id}"):
            rows = self._runs.filter(pk=run_id, state__in=allowed)
            if generation is not None:
                rows = rows.filter(generation=generation)
            changed = bool(rows.update(**values))
            if changed and description is not None:
                self._save_chunks(run_id, description)
            return changed

    def add_part(
        self,
        run_id: str,
        part: int,
        shards: Sequence[Shard],
        *,
        total: int,
        is_estimated: bool = False,
        rest: str | None = None,
    ) -> bool:
        with self.reachable(f"Planning iteration {run_id}"):
            undecided = self._runs.filter(pk=run_id, part=part, is_planned=False)
            if not undecided.exclude(state__in=ENDED).update(
                is_planned=rest is None,
                part=part + 1,
                rest=rest,
                total=F("total") + total,
                **({"is_estimated": True} if is_estimated else {}),
                touched_at=now(),
                started_at=_now_unless("started_at"),
                state=Case(
                    When(state=RunState.PLANNING, then=Value(RunState.RUNNING)),
                    default=F("state"),
                ),
            ):
                return False
            first = self._next_index(run_id)
            rows = [
                self._shard_row(replace(shard, index=first + shard.index))
                for shard in shards
            ]
            self._shards.bulk_create(rows)
            return True

    def acquire_run(
        self, run_id: str, *, state: RunState, lease: timedelta, is_call: bool = False
    ) -> Run | None:
        rows = self._runs.filter(pk=run_id)
        with self.reachable(f"Leasing iteration {run_id}"):
            taken = rows.filter(no_live_lease(), state=state).update(
                fence=F("fence") + 1,
                attempts=F("attempts") + int(is_call),
                lease_until=now() + lease,
                touched_at=now(),
            )
            return run_of(rows.get(), self._chunks) if taken else None

    def settle_run(
        self,
        run: Run,
        *,
        to: RunState | None,
        error: str | None = None,
        waiting: str = "",
        delay: timedelta | None = None,
    ) -> bool:
        values: dict[str, Any] = {
            "lease_until": None,
            "touched_at": now(),
            "waiting": waiting,
        }
        if error is not None:
            values["error"] = error
        rows = self._runs.filter(pk=run.id, fence=run.fence)
        if to is not None:
            values |= {"state": to, "due_at": None}
            rows = rows.filter(state__in=states_before(to))
        elif delay is not None:
            values["due_at"] = now() + delay
        if to in ENDED and to is not RunState.FAILED:
            # Kept from the first end on: it tells that finalize has run.
            values["finished_at"] = _now_unless("finished_at")
        with self.reachable(f"Settling iteration {run.id}"):
            return bool(rows.update(**values))

    def try_finalize(self, run_id: str) -> bool:
        undone = self._shards.filter(run_id=run_id).exclude(state=ShardState.DONE)
        with self.reachable(f"Finalizing iteration {run_id}"):
            ready = self._runs.filter(
                ~Exists(undone), pk=run_id, state=RunState.RUNNING, is_planned=True
            )
            return bool(ready.update(**_entering(RunState.FINALIZING)))

    def set_pace(
        self, run_id: str, *, leg_limit: float | None, killed_after: float | None
    ) -> None:
        with self.reachable(f"Pacing iteration {run_id}"):
            self._runs.filter(pk=run_id).update(
                leg_limit=leg_limit, killed_after=killed_after
            )

    def summarize_run(self, run_id: str) -> None:
        shards = self._shards.filter(run_id=run_id)
        whole = self._runs.filter(pk=run_id, state=RunState.FINISHED, is_summary=False)
        with self.reachable(f"Summarizing iteration {run_id}"):
            counts = shards.aggregate(
                **{name: Sum(name, default=0) for name in ("done", "failed", "skipped")}
            )
            if whole.update(**counts, is_summary=True, description=b""):
                self._failures.filter(run_id=run_id).delete()
                shards.delete()
                self._chunks.filter(run_id=run_id).delete()

    def touch_run(self, run_id: str) -> None:
        with self.reachable(f"Touching iteration {run_id}"):
            self._runs.filter(pk=run_id).update(touched_at=now())

    def delete_run(self, run_id: str) -> None:
        with self.reachable(f"Deleting iteration {run_id}"):
            self._failures.filter(run_id=run_id).delete()
            self._shards.filter(run_id=run_id).delete()
            self._chunks.filter(run_id=run_id).delete()
            self._runs.filter(pk=run_id).delete()

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        undone = self._shards.filter(run_id=OuterRef("pk"))
        undone = undone.exclude(state=ShardState.DONE)
        long_ago = now() - older_than
        owing = (
            Q(state__in=[RunState.PLANNING, RunState.FINALIZING])
            | Q(state=RunState.WAITING, due_at__isnull=False)
            | Q(state__in=STOPPED, finished_at=None)
            | Q(~Exists(undone) | Q(is_planned=False), state=RunState.RUNNING)
        )
        is_due = Q(due_at=None) | Q(due_at__lt=long_ago)
        lost = Q(owing, is_due, no_live_lease(), touched_at__lt=long_ago)
        rows = self._runs.filter(lost)
        with self.reachable("Looking for lost iterations"):
            found = rows.order_by("touched_at")[:limit]
            return [run_of(row, self._chunks) for row in found]

    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        over = Q(state__in=ENDED) | Q(state=RunState.WAITING, due_at=None)
        rows = self._runs.filter(over, touched_at__lt=now() - older_than)
        with self.reachable("Listing old iterations"):
            ids = rows.order_by("touched_at").values_list("pk", flat=True)
            return list(ids[:limit])

    def bump_run(self, run: Run) -> Run | None:
        rows = self._runs.filter(pk=run.id)
        with self.reachable(f"Renumbering iteration {run.id}"):
            bumped = rows.filter(
                no_live_lease(), generation=run.generation, state=run.state
            ).update(generation=F("generation") + 1, touched_at=now())
            return run_of(rows.get(), self._chunks) if bumped else None


def _entering(state: RunState) -> dict[str, Any]:
    """What changes with every state: in the new one nothing was called yet."""
    return {
        "state": state,
        "generation": F("generation") + 1,
        "attempts": 0,
        "due_at": None,
        "waiting": "",
        "touched_at": now(),
    }


def _now_unless(field: str) -> Case:
    """The database's now for a moment that is not set; a set one stays."""
    return Case(When(**{f"{field}__isnull": True}, then=now()), default=F(field))
