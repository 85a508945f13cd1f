"""Lists results: those of `django.tasks`, and those of tasks with `keep_result`.

A database has both in one table. A store outside of the databases is a place of its
own, named STORE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from cloudtask.models import TaskResultRow
from cloudtask.sending import waiting
from cloudtask.stores import store
from cloudtask.stores.database.fitting import fetched, mend
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import aware
from cloudtask.stores.database.results import DatabaseResults
from cloudtask.stores.pages import Page
from cloudtask.stores.results import ResultState, StoredResult

STORE = "store"
STATUSES = ("READY", "RUNNING", "FAILED", "SUCCESSFUL")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResult:
    """A result without its value. `backend` is empty for a task with `keep_result`."""

    id: str
    task: str
    queue: str
    status: str
    place: str
    backend: str = ""
    attempts: int | None = None
    error: str = ""
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None


_TIMES = (
    *("enqueued_at", "started_at", "last_attempted_at"),
    *("finished_at", "expires_at"),
)


def places() -> list[str]:
    """The databases that have results, and STORE if the store has its own."""
    own = [] if isinstance(store(), DatabaseResults) else [STORE]
    return [*waiting.aliases(), *own]


def page(
    place: str,
    *,
    status: str | None = None,
    task: str | None = None,
    before: str | None = None,
    limit: int,
) -> Page[KeptResult]:
    """Results of a place, the latest enqueued first. Raises ValueError for a mark that
    no list has made."""
    if place != STORE:
        rows = _rows(place)
        rows = rows.filter(status=status) if status else rows
        rows = rows.filter(task=task) if task else rows
        return page_of(rows, "enqueued_at", mark=before, limit=limit, made=_of_row)
    states = [one for one in ResultState if status in (None, "", one.value)]
    found = store().page_results(states=states, task=task, before=before, limit=limit)
    return Page(tuple(map(_of_store, found.items)), found.next)


def find(key: str) -> KeptResult | None:
    """The result of a call, wherever it is."""
    for place in places():
        if place == STORE:
            stored = store().load_result(key)
            return None if stored is None else _of_store(stored)
        for row in fetched(_rows(place).filter(pk=key)):
            return _of_row(row)
    return None


def keys_beginning(start: str, limit: int) -> Sequence[str]:
    """Ids in the databases that begin so."""
    found: list[str] = []
    for alias in waiting.aliases():
        rows = _rows(alias).filter(pk__startswith=start)
        found += rows.order_by("pk").values_list("pk", flat=True)[:limit]
    return found[:limit]


def _rows(alias: str) -> QuerySet[Any]:
    return TaskResultRow.objects.using(alias).defer("call", "value", "errors")


def _of_row(row: Any) -> KeptResult:
    error = mend(row)
    return KeptResult(
        id=row.pk,
        task=row.task,
        queue=row.queue,
        status=row.status,
        place=row._state.db,
        backend=row.backend,
        attempts=len(row.worker_ids) if row.backend else None,
        error=error,
        **{name: aware(getattr(row, name), row) for name in _TIMES},
    )


def _of_store(found: StoredResult) -> KeptResult:
    return KeptResult(
        id=found.id,
        task=found.task,
        queue=found.queue,
        status=found.state.value,
        place=STORE,
        error=found.error,
        enqueued_at=found.enqueued_at,
        finished_at=found.finished_at,
        expires_at=found.expires_at,
    )
