"""Results of tasks: how they are made, and stored in `cloudtask.models.results`."""

from __future__ import annotations

import inspect
import logging
import os
import socket
from datetime import datetime
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from cloudtask import codec, envelope, registry
from cloudtask.backend.library import (
    Task,
    TaskError,
    TaskResult,
    TaskResultStatus,
    task_backends,
)
from cloudtask.exceptions import BadSignature, PermanentTaskFailure
from cloudtask.stores import AlreadyDone
from cloudtask.stores.database.fitting import check, fetched, mend
from cloudtask.stores.transactions import inserted

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from cloudtask.models.results import TaskResultRow

logger = logging.getLogger("cloudtask.security")


def change(result: TaskResult[..., Any], **values: Any) -> None:
    """Set attributes of a result, which is frozen for everyone but its backend."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def new_result(
    task: Task[..., Any],
    key: str,
    args: Any,
    kwargs: Any,
    *,
    enqueued_at: datetime | None = None,
) -> TaskResult[..., Any]:
    """A READY result; raises TypeError for arguments that are not JSON."""
    return TaskResult(
        task=task,
        id=key,
        status=TaskResultStatus.READY,
        enqueued_at=enqueued_at or timezone.now(),
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def local(moment: datetime) -> datetime:
    """A moment as Django wants it: naive where USE_TZ is off."""
    return moment if timezone.is_aware(timezone.now()) else timezone.make_naive(moment)


def worker_id() -> str:
    """The name of this process, in 64 characters at most."""
    return f"{socket.gethostname()[:50]}-{os.getpid()}"


class ResultNotJson(PermanentTaskFailure):
    """The return value of a task can't be stored; the cause is the encoder's error."""


def error_of(error: BaseException) -> TaskError:
    """The error as a result has it, with the class that Django's backends record."""
    kind = type(error.__cause__ if isinstance(error, ResultNotJson) else error)
    return TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback="".join(format_exception(error)),
    )


class Results:
    """The results that are stored in the database `alias`."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def rows(self) -> QuerySet[TaskResultRow]:
        # Tasks are declared while models are still being loaded.
        from cloudtask.models.results import TaskResultRow

        return TaskResultRow.objects.using(self.alias)

    def enqueued(self, result: TaskResult[..., Any], database: str) -> None:
        """Save a new result when the open transaction on `database` commits.

        The row may exist already, since a worker can be faster.
        """
        row = _row(result)

        def keep() -> None:
            inserted(row, self.alias)

        if database == self.alias:
            keep()  # in the same transaction as the message
        else:
            transaction.on_commit(keep, using=database)

    def started(self, result: TaskResult[..., Any]) -> None:
        """Save that an attempt starts, with the errors and workers of earlier ones.

        Raises AlreadyDone for a call that has succeeded.
        """
        row = next(iter(fetched(self.rows.filter(pk=result.id))), None)
        if row is None:
            row = _row(result)
        elif why := mend(row):
            logger.error("What was stored of earlier attempts is forgotten: %s", why)
            row = _row(result)
        elif row.status == TaskResultStatus.SUCCESSFUL and _has_value(row):
            raise AlreadyDone(result.id)
        change(
            result,
            started_at=row.started_at or result.started_at,
            errors=_errors_before(row),
            worker_ids=[*row.worker_ids, *result.worker_ids[len(row.worker_ids) :]],
        )
        self.save(result)

    def save(self, result: TaskResult[..., Any]) -> None:
        """Save the present state of `result`."""
        row = _row(result)
        values = {
            field.attname: getattr(row, field.attname)
            for field in row._meta.concrete_fields
            if not field.primary_key
        }
        self.rows.update_or_create(pk=row.pk, defaults=values)

    def find(self, key: str) -> TaskResult[..., Any] | None:
        rows = fetched(self.rows.filter(pk=key).exclude(backend=""))
        if not rows:
            return None
        [row] = rows
        check(row)
        call = _unsealed(row, "call")
        is_done = row.status == TaskResultStatus.SUCCESSFUL
        result = new_result(
            _task(call["task"], call["fields"]),
            row.pk,
            call["args"],
            call["kwargs"],
            enqueued_at=row.enqueued_at,
        )
        change(
            result,
            status=TaskResultStatus(row.status),
            started_at=row.started_at,
            finished_at=row.finished_at,
            last_attempted_at=row.last_attempted_at,
            errors=_errors(row),
            worker_ids=row.worker_ids,
            # A value of None is sealed as well: NULL is no value that was returned.
            _return_value=_unsealed(row, "value") if is_done else None,
        )
        return result


def _task(path: str, fields: dict[str, Any]) -> Task[..., Any]:
    function = registry.find(path).function
    backend = task_backends[fields["backend"]]
    return backend.task_class(func=inspect.unwrap(function), **fields)


def fields_of(task: Task[..., Any]) -> dict[str, Any]:
    """The fields of a task, except its function, as values that travel."""
    return {
        "backend": task.backend,
        "priority": task.priority,
        "queue_name": task.queue_name,
        "run_after": task.run_after,
        "takes_context": task.takes_context,
    }


def _row(result: TaskResult[..., Any]) -> TaskResultRow:
    from cloudtask.models.results import TaskResultRow

    call = {
        "task": result.task.module_path,
        "fields": fields_of(result.task),
        "args": result.args,
        "kwargs": result.kwargs,
    }
    is_done = result.status == TaskResultStatus.SUCCESSFUL
    value = result._return_value  # type: ignore[attr-defined]
    errors = [[error.exception_class_path, error.traceback] for error in result.errors]
    return TaskResultRow(
        id=result.id,
        task=result.task.module_path,
        backend=result.backend,
        queue=result.task.queue_name,
        status=result.status.value,
        call=_sealed(call, result.id, "call"),
        value=_sealed(value, result.id, "value") if is_done else None,
        errors=_sealed(errors, result.id, "errors") if errors else None,
        worker_ids=result.worker_ids,
        enqueued_at=result.enqueued_at or timezone.now(),
        started_at=result.started_at,
        last_attempted_at=result.last_attempted_at,
        finished_at=result.finished_at,
    )


def _errors(row: TaskResultRow) -> list[TaskError]:
    if row.errors is None:
        return []
    return [
        TaskError(exception_class_path=path, traceback=text)
        for path, text in _unsealed(row, "errors")
    ]


def _errors_before(row: TaskResultRow) -> list[TaskError]:
    """The errors of earlier attempts. An attempt starts also if they are refused."""
    try:
        return _errors(row)
    except BadSignature as error:
        logger.error("Errors of earlier attempts are forgotten: %s", error)
        return []


def _sealed(value: Any, key: str, column: str) -> bytes:
    return envelope.seal_value(codec.dumps(value), place=("result", key, column))


def _unsealed(row: TaskResultRow, column: str) -> Any:
    """The value of a column; raises BadSignature if it was stored for another one."""
    return codec.loads(_opened(row, column))


def _opened(row: TaskResultRow, column: str) -> bytes:
    data = bytes(getattr(row, column) or b"")
    return envelope.unseal_value(data, place=("result", row.pk, column))


def _has_value(row: TaskResultRow) -> bool:
    """Whether the call has stored what it returned. Its state alone is not sealed."""
    try:
        return bool(_opened(row, "value"))
    except BadSignature as error:
        logger.error("Task %s runs, since its result is refused: %s", row.task, error)
        return False
