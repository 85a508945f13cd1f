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
    When,
)
from django.db.models.functions import Greatest

from cloudtask.clock import database_now as now
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.runs import (
    ENDED,
    GIVEN_UP,
    MOST_DOUBLINGS,
    STOPPED,
    FailureState,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardState,
    ShardSums,
)
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import (
    Tables,
    failure_of,
    inline,
    run_of,
    shard_of,
    shown,
)
from cloudtask.stores.database.swap import Conflict, DatabaseSwap
from cloudtask.stores.pages import Page
from cloudtask.stores.runs import RunStore
from cloudtask.stores.sealing import (
    opened_key,
    opened_run,
    sealed_run,
)
from cloudtask.stores.shards import ShardStore
from cloudtask.stores.swaps import Swap
from cloudtask.stores.transactions import translated
from cloudtask.transitions import reopened

T = TypeVar("T")

MOST_TRIES = 1_000  # of one change; each conflict means that another was made


class DatabaseIterations(Tables, RunStore, ShardStore):
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
            row = self.runs.filter(pk=run_id).first()
            return self._whole_run(row) if row else None

    def _whole_run(self, row: Any) -> Run:
        run = run_of(row)
        if run.description or run.is_summary:
            return run
        parts = self.chunks.filter(run_id=run.id).order_by("index")
        description = b"".join(map(bytes, parts.values_list("data", flat=True)))
        return replace(run, description=description)

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        rows = self.runs.order_by("-created_at", "pk")
        if states:
            rows = rows.filter(state__in=states)
        with self.reading("Listing iterations"):
            return [opened_run(self._whole_run(row))[0] for row in rows[:limit]]

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
            return page_of(rows, "created_at", mark=before, limit=limit, made=run_of)

    def count_runs(self, states: Sequence[RunState]) -> dict[RunState, int]:
        rows = self.runs.filter(state__in=states).order_by().values_list("state")
        with self.reading("Counting iterations"):
            found = dict(rows.annotate(number=Count("pk")))
        return {state: found.get(state.value, 0) for state in states}

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
        )
        is_due = Q(due_at=None) | Q(due_at__lt=long_ago)
        rows = self.runs.filter(
            owing, is_due, _no_live_lease(), touched_at__lt=long_ago
        )
        with self.reading("Looking for lost iterations"):
            found = rows.order_by("touched_at")[:limit]
            return [opened_run(self._whole_run(row))[0] for row in found]

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
            return [shard_of(row) for row in rows]

    def sums_of_shards(self, run_ids: Sequence[str]) -> dict[str, ShardSums]:
        is_done = Q(state=ShardState.DONE)
        settled = F("done") + F("failed") + F("skipped")
        larger = Greatest("expected", settled, output_field=BigIntegerField())
        size = Case(
            When(is_done, then=settled),
            default=larger,
            output_field=BigIntegerField(),
        )
        rows = self.shards.filter(run_id__in=run_ids).order_by().values("run_id")
        sums = rows.annotate(
            **{f"{name}_sum": Sum(name) for name in ("done", "failed", "skipped")},
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
            row = self.shards.filter(run_id=run_id, index=index).first()
        return shard_of(row) if row else None

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
            return [shard_of(row) for row in rows.order_by("touched_at")[:limit]]

    # Rows that failed

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        rows = self.failures.filter(run_id=run_id)
        if shard is not None:
            rows = rows.filter(shard=shard)
        with self.reading(f"Loading the failed rows of {run_id}"):
            found = list(rows.order_by("pk")[:limit])
        return [shown(row) for row in found]

    def page_failures(
        self,
        run_id: str,
        *,
        states: Sequence[FailureState] = (),
        after: str | None = None,
        limit: int,
    ) -> Page[RowFailure]:
        rows = self.failures.filter(run_id=run_id)
        if states:
            rows = rows.filter(state__in=states)
        if after is not None:
            rows = rows.filter(digest__gt=after)
        with self.reading(f"Listing the failed rows of {run_id}"):
            found = list(rows.order_by("digest")[: limit + 1])
        page = found[:limit]
        mark = page[-1].digest if len(found) > limit else None
        return Page(tuple(map(shown, page)), mark)

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        rows = self.failures.filter(
            run_id=run_id, shard=shard, state=FailureState.WAITING
        ).order_by("due_at")
        with self.reading(f"Loading the rows of {run_id} that wait"):
            # One query has one moment: by a second one, a row could have become due.
            # One extra row shows when the next one is due.
            found = list(rows.annotate(now=now())[: limit + 1])
        with self._refusing(run_id):
            due = [
                failure_of(row, key=opened_key(run_id, row.digest, row.key))
                for row in found[:limit]
                if row.due_at <= row.now
            ]
        if len(found) == len(due):
            return due, None
        following = found[len(due)]
        return due, max(0.0, (following.due_at - following.now).total_seconds())

    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        rows = self.failures.filter(run_id=run_id)
        if given_up:
            rows = rows.filter(state__in=GIVEN_UP)
        with self.reading(f"Counting the failed rows of {run_id}"):
            return rows.count()

    def reopen_failures(self, run_id: str) -> int:
        what = f"Reopening the failed rows of {run_id}"
        given_up = self.failures.filter(run_id=run_id, state__in=GIVEN_UP)
        opened = 0
        with self.writing(what):
            for index in sorted(set(given_up.values_list("shard", flat=True))):
                rows = given_up.filter(shard=index).update(
                    state=FailureState.WAITING, due_at=now(), attempts=0
                )
                self.swap(what, _reopening(run_id, index, rows))
                opened += rows
        return opened


def _reopening(run_id: str, index: int, rows: int) -> Callable[[Swap], None]:
    def change(swap: Swap) -> None:
        if shard := swap.shard(run_id, index):
            swap.put_shard(reopened(shard, rows=rows))

    return change


def _no_live_lease() -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now())


def _may_be_walked() -> Q:
    """Shards for which `transitions.may_be_walked` is true."""
    is_alive = ~_no_live_lease() | Q(deadline_at__gt=now())
    return Q(is_alive, state=ShardState.RUNNING)


def _untouched(older_than: timedelta) -> Q:
    """Shards that no write has touched for so long, and longer if they were swept."""
    found = Q()
    for sweeps in range(MOST_DOUBLINGS + 1):
        swept = {"sweeps" if sweeps < MOST_DOUBLINGS else "sweeps__gte": sweeps}
        found |= Q(touched_at__lt=now() - older_than * 2**sweeps, **swept)
    return found
