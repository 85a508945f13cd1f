"""The backend for `django.tasks`, and for its backport django-tasks.

    TASKS = {"default": {"BACKEND": "cloudtask.backend.CloudTasksBackend"}}

See docs/howto/django-tasks.md for its OPTIONS.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.utils import timezone

from cloudtask import conf, runtime
from cloudtask.backend import backend_options
from cloudtask.backend.backend_options import BackendOptions
from cloudtask.backend.cloud_task import CloudTask
from cloudtask.backend.library import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    normalize_json,
    task_enqueued,
)
from cloudtask.backend.runner import definition_of
from cloudtask.backend.task_results import Results, fields_of, new_result
from cloudtask.discretion import discreet
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import Options, nearest
from cloudtask.registry import Definition

__all__ = ["CloudTask", "CloudTasksBackend"]


class CloudTasksBackend(BaseTaskBackend):
    """Runs tasks on Google Cloud Tasks."""

    task_class = CloudTask
    supports_defer = True
    supports_async_task = True

    @cached_property
    def settings(self) -> BackendOptions:
        """OPTIONS in the form that is used; raises ConfigurationError."""
        return backend_options.read(self.alias, self.options)

    @cached_property
    def results(self) -> Results | None:
        """The stored results; None if the backend keeps none."""
        alias = self.settings.results
        return Results(alias) if alias is not None else None

    @property
    def supports_get_result(self) -> bool:  # type: ignore[override]
        return self.results is not None

    @property
    def supports_priority(self) -> bool:  # type: ignore[override]
        return bool(self.settings.priority_queues)

    def validate_task(self, task: Task[..., Any]) -> None:
        """Raises InvalidTask for a task that this backend can't run."""
        super().validate_task(task)
        if "." in task.func.__qualname__:
            raise InvalidTask(
                f"Task function {task.func.__qualname__} is defined in a class, where "
                "a worker can't import it from. Move it to module level."
            )
        try:
            self.options_of(task)
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"{task.module_path}: {error}") from error
        definition_of(task)

    def options_of(self, task: Task[..., Any]) -> Options:
        """The options with which the calls of `task` are enqueued."""
        given = {
            **(task.task_options if isinstance(task, CloudTask) else {}),
            "queue": self.settings.queue_for(task.queue_name, task.priority),
            "eta": _eta(task.run_after),
        }
        unique = given.get("unique", self.settings.task.unique)
        if unique:
            given["unique"] = _unique(task, unique)
        chosen = self.settings.task.updated(given)
        if callable(chosen.backoff):
            # It travels with the message, since a worker does not know `using()`.
            chosen = replace(chosen, carries_backoff=True)
        return chosen

    @discreet
    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Have `task` run with these arguments, once, later.

        Raises TypeError for arguments that are not JSON or that the function does not
        take, and EnqueueError when the queue does not take the task.
        """
        self.validate_task(task)
        chosen = self.options_of(task)
        made_of = fields_of(task)
        if chosen.atomic:
            made_of["atomic"] = True
        plain: Any = normalize_json([args, kwargs])
        receipt = runtime.enqueue(
            definition_of(task), chosen, (made_of, *plain[0]), plain[1]
        )
        result = new_result(task, receipt.id, args, kwargs)
        if self.results is not None:
            self.results.enqueued(result, chosen.database)
        task_enqueued.send(sender=type(self), task_result=result)
        return result

    @discreet
    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """The result of a call, where OPTIONS["results"] keeps them.

        Raises TaskResultDoesNotExist.
        """
        if self.results is None:
            # django.tasks asks for this error of a backend without results.
            raise NotImplementedError(
                f"TASKS[{self.alias!r}] keeps no results: set "
                'OPTIONS["results"] to True or to the alias of a database.'
            )
        result = self.results.find(result_id)
        if result is None or result.backend != self.alias:
            raise TaskResultDoesNotExist(result_id)
        return result

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """E101: OPTIONS can be read. E102: the queues exist. E103: the app is there."""
        return list(self._problems())

    def _problems(self) -> Iterator[CheckMessage]:
        if not apps.is_installed("cloudtask"):
            yield Error(
                f"TASKS[{self.alias!r}] needs the app of its BACKEND.",
                hint="Add 'cloudtask' to INSTALLED_APPS.",
                id="cloudtask.E103",
            )
        try:
            reachable = {
                self.settings.queue_for(queue, priority)
                for queue in self.queues
                for priority in (0, *self.settings.priority_queues)
            }
            declared = conf.settings().queues
        except ConfigurationError as error:
            yield Error(str(error), id="cloudtask.E101")
            return
        for queue in sorted(reachable - set(declared)) if declared else ():
            yield Error(
                f"TASKS[{self.alias!r}] sends tasks to the queue {queue!r}, which "
                f"CLOUDTASK['QUEUES'] does not have; {nearest(queue, declared)}",
                id="cloudtask.E102",
            )


def _eta(run_after: datetime | None) -> datetime | None:
    """An aware moment ahead; None, which means now, for a moment in the past."""
    if run_after is None:
        return None
    moment = (
        run_after if timezone.is_aware(run_after) else timezone.make_aware(run_after)
    )
    return moment if moment > datetime.now(moment.tzinfo) else None


def _unique(task: Task[..., Any], given: Any) -> Any:
    """A function that makes the key of a call from its own arguments alone: the fields
    of the task come before them."""
    if callable(given):
        return lambda _, *args, **kwargs: given(*args, **kwargs)
    definition: Definition = definition_of(task)

    def arguments(*args: Any, **kwargs: Any) -> Any:
        bound: inspect.BoundArguments = definition.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return list(bound.arguments.items())[1:]

    return arguments
