"""Keeps the results of calls in the table that `django.tasks` uses, too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import Q, QuerySet

from cloudtask import codec, envelope
from cloudtask.clock import database_now as now
from cloudtask.codec import shapes
from cloudtask.exceptions import BadSignature
from cloudtask.stores.database.fitting import check, fetched, mend
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import aware
from cloudtask.stores.pages import Page
from cloudtask.stores.results import ResultState, ResultStore, StoredResult
from cloudtask.stores.transactions import Database, delete_by_key, inserted

if TYPE_CHECKING:
    from cloudtask.models import TaskResultRow


class DatabaseResults(Database, ResultStore):
    """The results in one database.

    The store uses its own database. An atomic task has its result in the database of
    its effects, so that both commit together.
    """

    def _results(self) -> QuerySet[TaskResultRow]:
        from cloudtask.models import TaskResultRow

        return TaskResultRow.objects.using(self.database).filter(backend="")

    def save_result(self, result: StoredResult, keep: timedelta) -> None:
        from cloudtask.models import TaskResultRow

        values = _columns(result) | {"finished_at": now(), "expires_at": now() + keep}
        row = TaskResultRow(id=result.id, enqueued_at=result.enqueued_at, **values)
        with self.reading(f"Saving the result of {result.id}"):
            if not inserted(row, self.database):
                ours = self._results().filter(id=result.id)
                ours.exclude(status=ResultState.SUCCEEDED.value).update(**values)

    def load_result(self, key: str) -> StoredResult | None:
        is_expired = Q(expires_at__lt=now())
        with self.reading(f"Loading the result of {key}"):
            rows = fetched(
                self._results().filter(id=key).annotate(is_expired=is_expired)
            )
        return _result(rows[0]) if rows else None

    def page_results(
        self,
        *,
        states: Collection[ResultState] = tuple(ResultState),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[StoredResult]:
        rows = self._results().filter(status__in=[state.value for state in states])
        rows = rows.filter(task=task) if task is not None else rows
        rows = rows.defer("call", "value", "errors")
        with self.reading("Listing results"):
            return page_of(rows, "enqueued_at", mark=before, limit=limit, made=_brief)

    def prune_results(self, forget_after: timedelta, limit: int) -> int:
        with self.reading("Pruning results"):
            expired = self._results().filter(expires_at__lt=now())
            old = expired.filter(expires_at__lt=now() - forget_after)
            delete_by_key(old, list(old.values_list("pk", flat=True)[:limit]))
            full = expired.exclude(value=None, errors=None)
            keys = list(full.values_list("pk", flat=True)[:limit])
            return expired.filter(pk__in=keys).update(value=None, errors=None)


class ResultsIn(DatabaseResults):
    """The results in the database `alias`."""

    def __init__(self, alias: str) -> None:
        self.database = alias


def _columns(result: StoredResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "queue": result.queue,
        "status": result.state.value,
        "value": result.value,
        "errors": _sealed_errors(result),
    }


def _sealed_errors(result: StoredResult) -> bytes | None:
    if result.state is ResultState.SUCCEEDED:
        return None
    data = codec.dumps([[result.error, result.traceback]])
    return envelope.seal_value(data, place=("result", result.id, "errors"))


def _result(row: Any) -> StoredResult:
    check(row)
    if row.is_expired:
        return _brief(row)
    error, traceback = _errors(row)
    value = bytes(row.value) if row.value is not None else None
    return replace(_brief(row), value=value, error=error, traceback=traceback)


def _brief(row: Any) -> StoredResult:
    why = mend(row)
    return StoredResult(
        id=row.pk,
        task=row.task,
        queue=row.queue,
        state=ResultState.FAILED if why else ResultState(row.status),
        error=why,
        enqueued_at=aware(row.enqueued_at, row),
        finished_at=aware(row.finished_at, row),
        expires_at=aware(row.expires_at, row),
    )


def _errors(row: Any) -> tuple[str, str]:
    if row.errors is None:
        return "", ""
    place = ("result", row.pk, "errors")
    try:
        [pair] = codec.loads(envelope.unseal_value(bytes(row.errors), place=place))
    except BadSignature as error:
        return str(error), ""
    error_text, traceback = shapes.parts(pair, 2)
    return shapes.text(error_text), shapes.text(traceback)
