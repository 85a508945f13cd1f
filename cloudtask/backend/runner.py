"""Runs a task of `django.tasks`: the runtime calls a `Runner` in its place."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from django.db import DatabaseError
from django.dispatch import Signal
from django.utils import timezone
from django.utils.module_loading import import_string

from cloudtask import registry, signals
from cloudtask.backend import task_results
from cloudtask.backend.library import (
    Task,
    TaskContext,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from cloudtask.backend.task_results import ResultNotJson, Results, change
from cloudtask.context import TaskContext as Current
from cloudtask.context import current
from cloudtask.delivering.errors import UNCAUGHT
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import PermanentTaskFailure, Retry
from cloudtask.options import Options
from cloudtask.registry import Definition

logger = logging.getLogger("cloudtask")

EXECUTION = "_cloudtask_execution"  # on an error, until it is settled

_runners: dict[str, Runner] = {}
_definitions: dict[tuple[Callable[..., Any], bool], Definition] = {}


class Runner:
    """Stands for the function of a task; every call names the task it was made of.

    Its signature is that of the function, without the context and with the fields of
    the task, a dict, before all others: so arguments are checked and shown by name.
    """

    def __init__(self, task: Task[..., Any]) -> None:
        functools.update_wrapper(self, task.func, updated=())
        self.task = task
        self.__signature__ = _signature(task)

    def __call__(self, fields: dict[str, Any], /, *args: Any, **kwargs: Any) -> Any:
        context = current()
        if context is None:
            raise RuntimeError(f"{self.task.module_path} is run by the runtime only.")
        made_of = {name: fields[name] for name in fields if name != "atomic"}
        backend = task_backends[fields["backend"]]
        execution = Execution(
            backend,
            backend.task_class(func=self.task.func, **made_of),
            context,
            args,
            kwargs,
            is_atomic=fields.get("atomic", False),
        )
        execution.start()
        try:
            value = execution.call()
        except UNCAUGHT:
            raise
        except BaseException as error:
            execution.fail(error)
            raise
        execution.succeed(value)
        return value


def _signature(task: Task[..., Any]) -> inspect.Signature:
    parameters = list(inspect.signature(task.func).parameters.values())
    if task.takes_context:
        parameters = parameters[1:]
    first = inspect.Parameter("django_task", inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature([first, *parameters])


def definition_of(task: Task[..., Any]) -> Definition:
    """The definition of a task for the runtime; it is registered when it is made."""
    key = (task.func, task.takes_context)
    if key not in _definitions:
        _definitions[key] = _registered(task)
    return _definitions[key]


def _registered(task: Task[..., Any]) -> Definition:
    runner = Runner(task)
    definition = Definition(task.module_path, runner, Options())
    registry.register(definition)
    _runners[definition.path] = runner
    signals.task_finished.connect(_settled, dispatch_uid="cloudtask.backend")
    return definition


def find(path: str) -> Definition | None:
    """The task at an import path, whatever backend it was declared for."""
    try:
        found = import_string(path)
    except ImportError:
        return None
    return definition_of(found) if isinstance(found, Task) else None


registry.finders.append(find)


def _settled(
    sender: str, context: Current, outcome: Outcome, error: Any, **kwargs: Any
) -> None:
    """Write into the result what the runtime has decided after a failure."""
    is_decided = outcome not in (
        Outcome.DUPLICATE,
        Outcome.CANCELLED,
        Outcome.SKIPPED,
        Outcome.UNSETTLED,
    )
    if sender not in _runners or error is None or not is_decided:
        return
    execution = vars(error).pop(EXECUTION, None) or _never_run(sender, context)
    try:
        raise error  # receivers look for the exception that is being handled
    except BaseException as raised:  # noqa: BLE001  it is the task's, and settled
        execution.settle(raised, is_last=outcome is Outcome.EXHAUSTED)


def _never_run(path: str, context: Current) -> Execution:
    """The execution of a call that could not be decoded, or was killed every time."""
    runner = _runners[path]
    backend = task_backends[runner.task.backend]
    execution = Execution(backend, runner.task, context)
    kept = execution.results and execution.results.find(context.id)
    execution.result = kept or execution.result
    return execution


class Execution:
    """One attempt of a call. Receivers of signals can't make it fail."""

    def __init__(
        self,
        backend: Any,
        task: Any,
        context: Current,
        args: Any = (),
        kwargs: Any = MappingProxyType({}),
        *,
        is_atomic: bool = False,
    ) -> None:
        self.backend = backend
        self.context = context
        self.is_atomic = is_atomic
        self.is_noted = False
        self.results: Results | None = getattr(backend, "results", None)
        enqueued_at = task_results.local(context.enqueued_at)
        self.result: TaskResult[..., Any] = task_results.new_result(
            task, context.id, args, kwargs, enqueued_at=enqueued_at
        )

    def start(self) -> None:
        """Raises AlreadyDone for a call whose result says that it has succeeded."""
        now = timezone.now()
        change(
            self.result,
            status=TaskResultStatus.RUNNING,
            started_at=now,
            last_attempted_at=now,
            worker_ids=[task_results.worker_id()] * self.context.attempt,
        )
        if self.results is not None:
            self.results.started(self.result)
        self._tell(task_started)

    def call(self) -> Any:
        task, result = self.result.task, self.result
        context = [TaskContext(task_result=result)] if task.takes_context else []
        value = task.call(*context, *result.args, **result.kwargs)
        if self.results is None:
            return value
        try:
            return normalize_json(value)
        except (TypeError, ValueError) as error:
            raise ResultNotJson(
                f"{task.module_path} returned {type(value).__name__}, which is no "
                "JSON, so its result can't be kept. It is not run again: that would "
                "repeat what it did."
            ) from error

    def succeed(self, value: Any) -> None:
        self._set(TaskResultStatus.SUCCESSFUL, _return_value=value)
        # The task has done its work. If the result can't be saved, it must not run
        # again, unless the same transaction undoes both.
        self._save(must=self.is_atomic)
        self._tell(task_finished)

    def fail(self, error: BaseException) -> None:
        """Note a failure, inside the `except` block: receivers may look for it."""
        vars(error)[EXECUTION] = self
        if not self.is_atomic:  # else this write would be rolled back
            final = isinstance(error, PermanentTaskFailure)
            self.settle(error, is_last=final or self.context.is_last_attempt)

    def settle(self, error: BaseException, *, is_last: bool) -> None:
        """Note `error` once; and again only to make it the last one."""
        if self.is_noted and not is_last:
            return
        if self.result.status == TaskResultStatus.FAILED:
            return
        if not self.is_noted and (is_last or not isinstance(error, Retry)):
            self.result.errors.append(task_results.error_of(error))
        self.is_noted = True
        self._set(TaskResultStatus.FAILED if is_last else TaskResultStatus.READY)
        self._save()
        if is_last:
            self._tell(task_finished)

    def _set(self, status: TaskResultStatus, **values: Any) -> None:
        is_over = status != TaskResultStatus.READY
        finished_at = timezone.now() if is_over else None
        change(self.result, status=status, finished_at=finished_at, **values)

    def _save(self, *, must: bool = False) -> None:
        if self.results is None:
            return
        try:
            self.results.save(self.result)
        except DatabaseError:
            if must:
                raise
            logger.exception("The result of %s was not kept.", self.result.id)

    def _tell(self, signal: Signal) -> None:
        signal.send_robust(sender=type(self.backend), task_result=self.result)
