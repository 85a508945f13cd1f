"""Converts rows of the iteration tables to records, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.db import connections
from django.db.models import Model, QuerySet
from django.utils import timezone

from cloudtask.clock import database_now
from cloudtask.runs import FailureState, RowFailure, Run, RunState, Shard, ShardState
from cloudtask.stores.database.fitting import check, mend
from cloudtask.stores.sealing import sealed_keys, shown_key, unreadable_run
from cloudtask.stores.transactions import Database

CHUNK = 512 * 1024  # bytes of a value in one row: well under any server's packet limit


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def column_of(kind: Any, name: str) -> str:
    return "run_id" if name == "run" and kind is not Run else name


def run_of(row: Model) -> Run:
    """`row` as a run without deferred columns; a description in chunks is empty.

    Raises Unreadable, as the other functions do, if a value does not fit.
    """
    check(row)
    values = _values(Run, row)
    for name in ("description", "options"):
        if name in values:
            values[name] = bytes(values[name])
    return Run(**values | {"state": RunState(values["state"])})


def shown_run(row: Model) -> Run:
    """The run for a list. One with a value that does not fit tells so as its error."""
    why = mend(row)
    run = run_of(row)
    return unreadable_run(run, why) if why else run


def shard_of(row: Model) -> Shard:
    check(row)
    values = _values(Shard, row)
    return Shard(**values | {"state": ShardState(values["state"])})


def failure_of(row: Model, **opened: str) -> RowFailure:
    """`row` as a failure, with values that were `opened` in the place of its own."""
    check(row)
    values = _values(RowFailure, row)
    values["state"] = FailureState(values["state"])
    return RowFailure(**values | opened)


def shown_shard(row: Model) -> Shard:
    """The shard for a list, with neutral values in the place of those that don't
    fit."""
    mend(row)
    return shard_of(row)


def shown(row: Any) -> RowFailure:
    """The failure for a list; see `shown_key`."""
    if why := mend(row):
        return replace(failure_of(row, key=""), error=why, traceback="")
    return failure_of(row, **shown_key(row.run_id, row.digest, row.key))


@cache
def _columns(kind: Any) -> tuple[tuple[str, str], ...]:
    """The fields of a record, each with the name of its column."""
    return tuple((f.name, column_of(kind, f.name)) for f in fields(kind))


def _values(kind: Any, row: Model) -> dict[str, Any]:
    """The fields of a record that `row` has; it lacks those that are deferred."""
    there = row.__dict__
    return {
        name: aware(there[column], row)
        for name, column in _columns(kind)
        if column in there
    }


def aware(value: Any, row: Model) -> Any:
    """A time from the database with its zone.

    PostgreSQL returns the zone, or the project's time with USE_TZ=False. Elsewhere the
    stored time is UTC, whatever zone the settings give the database.
    """
    return aware_at(value, row._state.db or "default")


def aware_at(value: Any, alias: str) -> Any:
    """A time from the database `alias` with its zone; see `aware`."""
    if not isinstance(value, datetime):
        return value
    if connections[alias].vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    return timezone.make_aware(value) if timezone.is_naive(value) else value


def inline(description: bytes) -> bytes:
    """The part of a description that lies in the row of its run: all or nothing."""
    return description if len(description) <= CHUNK else b""


class Tables(Database):
    """The tables of iteration in one database."""

    def _rows(self, name: str) -> QuerySet[Any]:
        from cloudtask import models

        rows: QuerySet[Any] = getattr(models, name).objects.using(self.database)
        return rows

    @property
    def runs(self) -> QuerySet[Any]:
        return self._rows("IterationRun")

    @property
    def chunks(self) -> QuerySet[Any]:
        return self._rows("IterationChunk")

    @property
    def shards(self) -> QuerySet[Any]:
        return self._rows("IterationShard")

    @property
    def failures(self) -> QuerySet[Any]:
        return self._rows("IterationFailure")

    def insert_shards(self, shards: Sequence[Shard]) -> None:
        columns = {f.name: column_of(Shard, f.name) for f in fields(Shard)}
        self.shards.bulk_create(
            self.shards.model(
                **{column: getattr(shard, name) for name, column in columns.items()}
                | sealed_keys(shard),
                touched_at=database_now(),
            )
            for shard in shards
        )

    def insert_chunks(self, run_id: str, description: bytes) -> None:
        """Write a description that is too large for the run's row."""
        if inline(description) == description:
            return
        for index, start in enumerate(range(0, len(description), CHUNK)):
            data = description[start : start + CHUNK]
            self.chunks.create(run_id=run_id, index=index, data=data)
