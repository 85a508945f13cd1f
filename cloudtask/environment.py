"""Answers questions about the current request, under djangae's names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from django.http import HttpRequest

from cloudtask import conf
from cloudtask.conf.queues import declared_name
from cloudtask.context import current
from cloudtask.targets import delivery_of, header
from cloudtask.targets.guards import is_cron_request


@dataclass(frozen=True, slots=True)
class TaskEnvironment:
    """The values of the headers of a trusted delivery."""

    name: str | None = None
    queue: str | None = None
    retries: int | None = None
    executions: int | None = None
    is_cron: bool = False


_environment: ContextVar[TaskEnvironment | None] = ContextVar(
    "cloudtask_environment", default=None
)


@contextmanager
def of_request(request: HttpRequest, *, is_task: bool) -> Iterator[None]:
    """Answer for `request` inside the block, with headers of trusted senders only."""
    token = _environment.set(_read(request, is_task=is_task))
    try:
        yield
    finally:
        _environment.reset(token)


def _read(request: HttpRequest, *, is_task: bool) -> TaskEnvironment:
    is_cron = is_cron_request(request)
    if not is_task:
        return TaskEnvironment(is_cron=is_cron)
    delivery = delivery_of(request.headers)
    return TaskEnvironment(
        name=header(request.headers, "TaskName"),
        queue=_queue_of(header(request.headers, "QueueName")),
        retries=delivery.retries,
        executions=delivery.executions,
        is_cron=is_cron,
    )


def _queue_of(sent_by: str | None) -> str | None:
    """The declared queue; the header names one of its parts if it is spread."""
    return sent_by and declared_name(conf.settings().queues, sent_by)


def is_in_task() -> bool:
    """Whether a task, or a view that Cloud Tasks called, runs here."""
    return current() is not None or task_name() is not None


def is_in_cron() -> bool:
    """Whether a job of App Engine's cron or Cloud Scheduler made the request."""
    found = _environment.get()
    return found is not None and found.is_cron


def task_name() -> str | None:
    """The Cloud Tasks id of the task, or None outside of one."""
    if context := current():
        return context.name
    found = _environment.get()
    return found.name if found else None


def task_queue_name() -> str | None:
    """The id of the task's queue, or None outside of one."""
    if context := current():
        return context.queue
    found = _environment.get()
    return found.queue if found else None


def task_retry_count() -> int | None:
    """The number of earlier attempts of the task, or None outside of one."""
    if context := current():
        return context.retries
    found = _environment.get()
    return found.retries if found else None


def task_execution_count() -> int | None:
    """The number of earlier attempts that were answered, or None outside of a task."""
    if context := current():
        return context.executions
    found = _environment.get()
    return found.executions if found else None
