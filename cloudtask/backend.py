"""The backend for `django.tasks`, and for its backport django-tasks.

    TASKS = {"default": {"BACKEND": "cloudtask.backend.CloudTasksBackend"}}

See docs/howto/django-tasks.md for its OPTIONS.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.utils import timezone

from cloudtask import conf, runtime
from cloudtask.backends import options
from cloudtask.backends.library import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    normalize_json,
    task_enqueued,
)
from cloudtask.backends.options import BackendOptions
from cloudtask.backends.results import Results, fields_of, new_result
from cloudtask.backends.running import definition_of
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import Backoff, BackoffFunction, Options, nearest
from cloudtask.registry import Definition

__all__ = ["CloudTask", "CloudTasksBackend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(Task):  # type: ignore[type-arg]
    """A task of `django.tasks` with the options of this library.

    They go to `using()`, and to the decorator where Django hands them on: from 6.1, and
    in the backport. None leaves an option to the backend's OPTIONS.
    """

    name_of_call: str | None = None
    small: bool | None = None
    unique: Any = None
    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    timeout: timedelta | float | None = None
    atomic: bool | None = None
    transactional: bool | None = None
    database: str | None = None
    service: str | None = None
    version: str | None = None
    instance: str | None = None
    url: str | None = None
    headers: Mapping[str, str] | None = None

    def using(self, **changes: Any) -> CloudTask:
        """A task with other fields; raises TypeError for an unknown one.

        `name` is that of a single Cloud Tasks task, of which there can be one.
        """
        if "name" in changes:
            changes["name_of_call"] = changes.pop("name")
        known = [field.name for field in fields(self) if field.name != "func"]
        for name in changes:
            if name not in known:
                raise TypeError(f"Unknown option {name!r}; {nearest(name, known)}")
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **given)

    @property
    def task_options(self) -> dict[str, Any]:
        """What this task says about the options of this library."""
        said = {name: getattr(self, name) for name in options.OF_TASK}
        said["name"] = self.name_of_call
        return {name: value for name, value in said.items() if value is not None}


class CloudTasksBackend(BaseTaskBackend):
    """Runs tasks on Google Cloud Tasks."""

    task_class = CloudTask
    supports_defer = True
    supports_async_task = True

    @cached_property
    def settings(self) -> BackendOptions:
        """OPTIONS in the form that is used; raises ConfigurationError."""
        return options.read(self.alias, self.options)

    @cached_property
    def results(self) -> Results | None:
        """Where results are kept, if they are."""
        alias = self.settings.results
        return Results(alias) if alias is not None else None

    @property
    def supports_get_result(self) -> bool:  # type: ignore[override]
        return self.results is not None

    @property
    def supports_priority(self) -> bool:  # type: ignore[override]
        return bool(self.settings.priority_queues)

    def validate_task(self, task: Task[..., Any]) -> None:
        """Raises InvalidTask for what this backend can't run."""
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
        """What the runtime is to do with the calls of `task`."""
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
            # It goes with the message: a worker knows nothing of `using()`.
            chosen = replace(chosen, carries_backoff=True)
        return chosen

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Have `task` run with these arguments, once, later.

        Raises TypeError for arguments that are no JSON, or that the function does not
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

    def get_result(self, result_id: str) -> TaskResult[..., Any]:
        """The result of a call, where OPTIONS["results"] keeps them.

        Raises TaskResultDoesNotExist.
        """
        if self.results is None:
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
    """An aware moment ahead; what is past means now."""
    if run_after is None:
        return None
    moment = (
        run_after if timezone.is_aware(run_after) else timezone.make_aware(run_after)
    )
    return moment if moment > datetime.now(moment.tzinfo) else None


def _unique(task: Task[..., Any], given: Any) -> Any:
    """The key of a call is that of its own arguments; not of the task's fields."""
    if callable(given):
        return lambda _, *args, **kwargs: given(*args, **kwargs)
    definition: Definition = definition_of(task)

    def arguments(*args: Any, **kwargs: Any) -> Any:
        bound: inspect.BoundArguments = definition.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return list(bound.arguments.items())[1:]

    return arguments
