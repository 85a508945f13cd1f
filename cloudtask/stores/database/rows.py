"""The rows of iterations in a relational database, and the records that they hold."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.db.models import Exists, Max, Model, Q, QuerySet
from django.utils import timezone

from cloudtask.clock import database_now as now
from cloudtask.runs import FailureState, RowFailure, Run, RunState, Shard, ShardState


def no_live_lease() -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now())


def _tables() -> Any:
    from cloudtask import models

    return models


def _record(kind: type[Any], row: Model) -> Any:
    values = {f.name: getattr(row, column_of(kind, f.name)) for f in fields(kind)}
    return kind(**{name: _aware(value, row) for name, value in values.items()})


def _aware(value: Any, row: Model) -> Any:
    """A moment of the database as what it is: PostgreSQL's knows its zone, or is the
    project's time with USE_TZ=False; elsewhere it is UTC, whatever zone the settings
    say of the database."""
    if not isinstance(value, datetime):
        return value
    if connections[row._state.db or "default"].vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    return timezone.make_aware(value) if timezone.is_naive(value) else value


def column_of(kind: type[Any], name: str) -> str:
    return "run_id" if name == "run" and kind is not Run else name


def run_of(row: Model, chunks: QuerySet[Any]) -> Run:
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


def shard_of(row: Model) -> Shard:
    shard: Shard = _record(Shard, row)
    return replace(shard, state=ShardState(shard.state))


def failure_of(row: Model) -> RowFailure:
    failure: RowFailure = _record(RowFailure, row)
    return replace(failure, state=FailureState(failure.state))


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class IterationRows:
    """What the parts of DatabaseStore that keep iterations share."""

    database: str

    def reachable(self, what: str) -> AbstractContextManager[None]:
        """A transaction whose connection errors are EnqueueUnavailable."""
        raise NotImplementedError  # DatabaseStore has it

    @property
    def _runs(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationRun.objects.using(self.database)
        return rows

    @property
    def _shards(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationShard.objects.using(self.database)
        return rows

    @property
    def _failures(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationFailure.objects.using(self.database)
        return rows

    @property
    def _chunks(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = _tables().IterationChunk.objects.using(self.database)
        return rows

    def _running(self, run_id: str) -> Exists:
        return Exists(self._runs.filter(pk=run_id, state=RunState.RUNNING))

    def _next_index(self, run_id: str) -> int:
        """The first index that no shard has yet; lock the run's row before."""
        shards = self._shards.filter(run_id=run_id)
        last = shards.aggregate(last=Max("index"))["last"]
        return 0 if last is None else int(last) + 1

    def _shard_row(self, shard: Shard) -> Model:
        values = {
            column_of(Shard, f.name): getattr(shard, f.name) for f in fields(Shard)
        }
        row: Model = _tables().IterationShard(**values, touched_at=now())
        return row
