"""Keeps iterations in a relational database: queries, and changes of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeVar

from django.db import connections
from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Greatest, Least

from cloudtask.clock import database_now as now
from cloudtask.exceptions import BadSignature, EnqueueUnavailable
from cloudtask.runs import (
    ENDED,
    GIVEN_UP,
    MOST_DOUBLINGS,
    STOPPED,
    FailureState,
    IterationCounts,
    Run,
    RunState,
    Shard,
    ShardState,
    ShardSums,
    UnreadableRun,
)
from cloudtask.stores.database.fitting import fetched, misfits
from cloudtask.stores.database.paging import BoundedCount, page_of
from cloudtask.stores.database.records import (
    inline,
    run_of,
    shard_of,
    shown_run,
    shown_shard,
)
from cloudtask.stores.database.row_failures import DatabaseRowFailures
from cloudtask.stores.database.swap import Conflict, DatabaseSwap
from cloudtask.stores.fitting import LARGE
from cloudtask.stores.pages import MOST, Page
from cloudtask.stores.runs import RunStore
from cloudtask.stores.sealing import (
    opened_run,
    sealed_run,
)
from cloudtask.stores.swaps import Swap
from cloudtask.stores.transactions import translated
from cloudtask.transitions import LONGEST_LEASE

T = TypeVar("T")

MOST_TRIES = 1_000  # of one change; each conflict means that another was made


class DatabaseIterations(RunStore, DatabaseRowFailures):
    """The part of DatabaseStore that keeps iterations."""

    database: str

    def swap(self, what: str, change: Callable[[Swap], T]) -> T:
        with translated(what, self.database):
            for tries in range(MOST_TRIES):
                in_transaction = connections[self.database].in_atomic_block
                swap = DatabaseSwap(self, is_locking=in_transaction and tries > 0)
                result = change(swap)
                with suppress(Conflict):
                    swap.commit()
                    return result
        raise EnqueueUnavailable(
            f"{what} failed: others changed the rows in each of {MOST_TRIES:,} tries, "
            "or a row has a version that this library does not write."
        )

    # Runs

    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        sealed = sealed_run(run)
        values = {f.name: getattr(sealed, f.name) for f in fields(Run)}
        due = None if delay is None else now() + delay
        values |= {"created_at": now(), "touched_at": now(), "due_at": due}
        with self.writing(f"Creating iteration {run.id}"):
            self.runs.create(**values | {"description": inline(sealed.description)})
            self.insert_chunks(run.id, sealed.description)

    def read_run(self, run_id: str) -> Run | None:
        with self.reading(f"Loading iteration {run_id}"):
            rows = fetched(self.runs.filter(pk=run_id))
            return self._whole_run(rows[0]) if rows else None

    def fail_unreadable(self, run_id: str, why: str) -> None:
        with self.writing(f"Failing iteration {run_id}"):
            for row in fetched(self.runs.filter(pk=run_id).select_for_update()):
                mended = misfits(row)
                if mended.keys() - {"id"}:
                    values = mended | {"state": RunState.FAILED, "error": why}
                    values |= {"lease_until": None, "touched_at": now()}
                    self.runs.filter(pk=run_id).update(**values)

    def _whole_run(self, row: Any) -> Run:
        run = run_of(row)
        if run.description or run.is_summary:
            return run
        parts = self.chunks.filter(run_id=run.id).order_by("index")
        # What is no part of a description makes one that is not sealed.
        data = [part.data for part in fetched(parts)]
        is_whole = all(isinstance(part, bytes | memoryview) for part in data)
        return replace(run, description=b"".join(data) if is_whole else b"")

    def _shown_run(self, row: Any) -> Run:
        """The run for a list, with its description."""
        run = shown_run(row)
        return run if isinstance(run, UnreadableRun) else self._whole_run(row)

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        rows = self.runs.order_by("-created_at", "pk")
        if states:
            rows = rows.filter(state__in=states)
        with self.reading("Listing iterations"):
            found = [self._shown_run(row) for row in fetched(rows[:limit])]
        return [opened_run(run)[0] for run in found]

    def page_runs(
        self,
        *,
        states: Sequence[RunState] = (),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[Run]:
        rows = self.runs.defer("description", "options", "rest")
        if states:
            rows = rows.filter(state__in=states)
        if task is not None:
            rows = rows.filter(task=task)
        with self.reading("Listing iterations"):
            return page_of(rows, "created_at", mark=before, limit=limit, made=shown_run)

    def count_iterations(self, states: Sequence[RunState]) -> IterationCounts:
        given_up = self.failures.filter(state__in=GIVEN_UP).order_by().values("pk")
        numbers = {one.value: Count("pk", filter=Q(state=one)) for one in states}
        with self.reading("Counting iterations"):
            found = self.runs.filter(state__in=states).aggregate(
                **numbers, rows=BoundedCount(given_up[:MOST])
            )
        return IterationCounts({one: found[one.value] for one in states}, found["rows"])

    def summarize_run(self, run_id: str) -> None:
        shards = self.shards.filter(run_id=run_id)
        whole = self.runs.filter(pk=run_id, state=RunState.FINISHED, is_summary=False)
        with self.writing(f"Summarizing iteration {run_id}"):
            counts = shards.aggregate(
                **{name: Sum(name, default=0) for name in ("done", "failed", "skipped")}
            )
            if whole.update(**counts, is_summary=True, description=b""):
                self._delete_parts(run_id)

    def delete_run(self, run_id: str) -> None:
        with self.writing(f"Deleting iteration {run_id}"):
            self._delete_parts(run_id)
            self.runs.filter(pk=run_id).delete()

    def _delete_parts(self, run_id: str) -> None:
        for rows in (self.failures, self.shards, self.chunks):
            rows.filter(run_id=run_id).delete()

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        undone = self.shards.filter(run_id=OuterRef("pk"))
        undone = undone.exclude(state=ShardState.DONE)
        long_ago = now() - older_than
        owing = (
            Q(state__in=[RunState.PLANNING, RunState.FINALIZING])
            | Q(state=RunState.WAITING, due_at__isnull=False)
            | Q(state__in=STOPPED, finished_at=None)
            | Q(~Exists(undone) | Q(is_planned=False), state=RunState.RUNNING)
            | ~Q(state__in=list(RunState))
        )
        is_due = Q(due_at=None) | Q(due_at__lt=long_ago)
        rows = self.runs.filter(
            owing, is_due, _no_live_lease(), touched_at__lt=long_ago
        )
        with self.reading("Looking for lost iterations"):
            found = fetched(rows.order_by("touched_at")[:limit])
        return [run for row in found for run in self._lost(row)]

    def _lost(self, row: Any) -> list[Run]:
        """The run of a row, or none if it is FAILED because it can't be read."""
        with self.reading("Looking for lost iterations"):
            run = self._shown_run(row)
        if isinstance(run, UnreadableRun):
            self.fail_unreadable(row.pk, run.error)
            return []
        return [opened_run(run)[0]]

    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        over = Q(state__in=ENDED) | Q(state=RunState.WAITING, due_at=None)
        rows = self.runs.filter(over, touched_at__lt=now() - older_than)
        with self.reading("Listing old iterations"):
            ids = rows.order_by("touched_at").values_list("pk", flat=True)
            return list(ids[:limit])

    # Shards

    def load_shards(self, run_id: str) -> list[Shard]:
        rows = self.shards.filter(run_id=run_id).order_by("index")
        with self.reading(f"Loading the shards of iteration {run_id}"):
            return [shown_shard(row) for row in fetched(rows)]

    def sums_of_shards(self, run_ids: Sequence[str]) -> dict[str, ShardSums]:
        is_done = Q(state=ShardState.DONE)
        settled = _bounded("done") + _bounded("failed") + _bounded("skipped")
        larger = Greatest(_bounded("expected"), settled, output_field=BigIntegerField())
        size = Case(
            When(is_done, then=settled),
            default=larger,
            output_field=BigIntegerField(),
        )
        rows = self.shards.filter(run_id__in=run_ids).order_by().values("run_id")
        sums = rows.annotate(
            **{f"{n}_sum": Sum(_bounded(n)) for n in ("done", "failed", "skipped")},
            size=Sum(size, output_field=BigIntegerField()),
            shards=Count("pk"),
            undone=Count("pk", filter=~is_done),
        )
        with self.reading("Adding up the shards of iterations"):
            return {
                one.pop("run_id"): ShardSums(
                    **{n.removesuffix("_sum"): int(v) for n, v in one.items()}
                )
                for one in sums
            }

    def read_shard(self, run_id: str, index: int) -> Shard | None:
        with self.reading(f"Loading shard {index} of iteration {run_id}"):
            rows = fetched(self.shards.filter(run_id=run_id, index=index))
        return shard_of(rows[0]) if rows else None

    def is_at_work(self, run_id: str) -> bool:
        with self.reading(f"Looking who walks iteration {run_id}"):
            return self.shards.filter(_may_be_walked(), run_id=run_id).exists()

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        # The task of a shard also waits while a row of the shard does.
        resting = self.failures.filter(
            run_id=OuterRef("run_id"),
            shard=OuterRef("index"),
            state=FailureState.WAITING,
            due_at__gt=now(),
        )
        rows = self.shards.filter(
            ~_may_be_walked(),
            Q(is_walked=False) | ~Exists(resting),
            _untouched(older_than),
            run__state=RunState.RUNNING,
        ).exclude(state=ShardState.DONE)
        with self.reading("Looking for lost shards"):
            found = fetched(rows.order_by("touched_at")[:limit])
        return [shard for row in found for shard in self._lost_shard(row)]

    def _lost_shard(self, row: Any) -> list[Shard]:
        """The shard of a row, or none if its run is FAILED because of it."""
        with suppress(BadSignature), self._refusing(row.run_id):
            return [shard_of(row)]
        return []


def _bounded(count: str) -> Least:
    """A count that can be added up, whatever the row holds."""
    return Least(F(count), Value(LARGE), output_field=BigIntegerField())


def _no_live_lease() -> Q:
    is_over = Q(lease_until=None) | Q(lease_until__lt=now())
    return is_over | Q(lease_until__gt=now() + LONGEST_LEASE)


def _may_be_walked() -> Q:
    """Shards for which `transitions.may_be_walked` is true."""
    in_time = Q(deadline_at__gt=now(), deadline_at__lt=now() + LONGEST_LEASE)
    is_alive = ~_no_live_lease() | in_time
    return Q(is_alive, state=ShardState.RUNNING)


def _untouched(older_than: timedelta) -> Q:
    """Shards that no write has touched for so long, and longer if they were swept."""
    found = Q()
    for sweeps in range(MOST_DOUBLINGS + 1):
        swept = {"sweeps" if sweeps < MOST_DOUBLINGS else "sweeps__gte": sweeps}
        found |= Q(touched_at__lt=now() - older_than * 2**sweeps, **swept)
    return found
