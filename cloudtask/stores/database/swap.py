"""Makes one try of a change of runs and shards in a relational database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, QuerySet

from cloudtask.clock import database_now, database_time
from cloudtask.runs import RowFailure, Run, RunState, Shard, ShardState
from cloudtask.stores.database.fitting import fetched
from cloudtask.stores.database.records import (
    Tables,
    aware,
    column_of,
    digest_of,
    inline,
    run_of,
    shard_of,
)
from cloudtask.stores.sealing import (
    sealed_description,
    sealed_key,
    sealed_keys,
    sealed_rest,
)
from cloudtask.transitions import Moment


def _expression(value: Any) -> Any:
    return database_time(value) if isinstance(value, datetime) else value


class Conflict(Exception):
    """Another writer was faster: the change must be tried again."""


class DatabaseSwap:
    """One try of a change; `cloudtask.stores.swaps.Swap` describes its methods.

    Each run and shard has a `version`, which grows with every write. The change reads
    without locks, and its UPDATEs ask for the version that was read. That takes two
    round trips to the server, and no transaction if only one row is written.

    Inside a transaction of the caller's, a second read could return the same old
    snapshot. With `is_locking`, rows are read FOR UPDATE, which returns the latest.
    """

    def __init__(self, tables: Tables, *, is_locking: bool) -> None:
        self._tables = tables
        self._is_locking = is_locking
        self._runs: dict[str, tuple[Any, Run]] = {}
        self._shards: dict[tuple[str, int], tuple[Any, Shard]] = {}
        self._written: set[str] = set()
        self._writes: list[Callable[[], None]] = []
        self._must_run = False
        self.moment: Moment  # since the first row was read

    # Reading

    def run(self, run_id: str) -> Run | None:
        row = self._read(self._tables.runs.filter(pk=run_id).defer("description"))
        if row is None:
            return None
        self._runs[run_id] = row, run_of(row)
        return self._runs[run_id][1]

    def shard(
        self, run_id: str, index: int, *, if_running: bool = False
    ) -> Shard | None:
        self._must_run = if_running
        rows = self._tables.shards.filter(run_id=run_id, index=index)
        if if_running:
            rows = rows.filter(run__state=RunState.RUNNING)
        row = self._read(rows)
        if row is None:
            return None
        self._shards[run_id, index] = row, shard_of(row)
        return self._shards[run_id, index][1]

    def _read(self, rows: QuerySet[Any]) -> Any:
        if self._is_locking:
            rows = rows.select_for_update()
        [*found] = fetched(rows.annotate(now=database_now())[:1])
        if not found:
            return None
        self.moment = Moment(aware(found[0].now, found[0]))
        return found[0]

    def has_undone(self, run_id: str) -> bool:
        shards = self._tables.shards.filter(run_id=run_id)
        return shards.exclude(state=ShardState.DONE).exists()

    # Writing

    def put_run(self, run: Run, description: bytes | None = None) -> None:
        row, before = self._runs[run.id]
        self._written.add(run.id)
        rows = self._tables.runs.filter(pk=run.id, version=row.version)
        if run.rest is not None and run.rest != before.rest:
            run = replace(run, rest=sealed_rest(run.id, run.rest))
        values = self._changes(before, run)
        if description is None:
            self._update(rows, row, values)
            return
        sealed = sealed_description(run.id, description)

        def replace_chunks() -> None:
            self._tables.chunks.filter(run_id=run.id).delete()
            self._tables.insert_chunks(run.id, sealed)

        self._update(rows, row, values | {"description": inline(sealed)})
        self._writes.append(replace_chunks)

    def put_shard(self, shard: Shard) -> None:
        row, before = self._shards[shard.run, shard.index]
        rows = self._tables.shards.filter(pk=row.pk, version=row.version)
        if self._must_run:
            # In the same statement: the run may have been paused since it was read.
            running = self._tables.runs.filter(pk=shard.run, state=RunState.RUNNING)
            rows = rows.filter(Exists(running))
        shard = replace(shard, **sealed_keys(shard, before))
        self._update(rows, row, self._changes(before, shard))

    def _changes(self, before: Run | Shard, after: Run | Shard) -> dict[str, Any]:
        """The columns that change."""
        values = {f.name: getattr(after, f.name) for f in fields(before)}
        return {
            column_of(type(before), name): _expression(value)
            for name, value in values.items()
            if value != getattr(before, name)
        }

    def _update(self, rows: QuerySet[Any], row: Any, values: dict[str, Any]) -> None:
        def write() -> None:
            if not rows.update(
                **values, version=row.version + 1, touched_at=database_now()
            ):
                raise Conflict

        self._writes.append(write)

    def add_shards(self, run_id: str, shards: Sequence[Shard]) -> list[Shard]:
        # Every writer that adds shards writes their run: of two at once, one conflicts.
        if run_id not in self._written and (run := self.run(run_id)):
            self.put_run(run)
        first = self._next_index(run_id)
        placed = [replace(shard, index=first + shard.index) for shard in shards]
        self._writes.append(lambda: self._tables.insert_shards(placed))
        return placed

    def _next_index(self, run_id: str) -> int:
        rows = self._tables.shards.filter(run_id=run_id).order_by("-index")
        if self._is_locking:
            rows = rows.select_for_update()
        last = rows.values_list("index", flat=True).first()
        return 0 if last is None else last + 1

    def put_failure(self, failure: RowFailure, delay: timedelta) -> None:
        digest = digest_of(failure.key)
        values = {
            "key": sealed_key(failure, digest),
            "shard": failure.shard,
            "state": failure.state,
            "attempts": failure.attempts,
            "error": failure.error,
            "traceback": failure.traceback,
            "due_at": database_now() + delay,
        }
        one = {"run_id": failure.run, "digest": digest}

        def write() -> None:
            rows = self._tables.failures
            if not rows.filter(**one).update(**values):
                rows.create(**one, **values)

        self._writes.append(write)

    def forget_failure(self, run_id: str, key: str) -> None:
        rows = self._tables.failures.filter(run_id=run_id, digest=digest_of(key))

        def write() -> None:
            rows.delete()

        self._writes.append(write)

    def commit(self) -> None:
        """Make the writes; raises Conflict, and then none is made."""
        if len(self._writes) == 1:
            self._writes[0]()
            return
        with transaction.atomic(using=self._tables.database):
            for write in self._writes:
                write()
