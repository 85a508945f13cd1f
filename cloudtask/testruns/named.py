"""Finds the task that a test names: ours, one of `django.tasks`, or a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from cloudtask import callables, deferred
from cloudtask.callables import Form
from cloudtask.decorators import Deferrable, TaskWithOptions
from cloudtask.options import OPTIONS, Options
from cloudtask.registry import refused_call

if TYPE_CHECKING:
    from cloudtask.backend import CloudTasksBackend
    from cloudtask.backend.library import Task

    Nameable = Deferrable[Any, Any] | Task[..., Any] | Callable[..., Any]

__tracebackhide__ = True  # pytest ends at the line of the test

ANY_ARGUMENTS = Signature(
    [
        Parameter("args", Parameter.VAR_POSITIONAL),
        Parameter("kwargs", Parameter.VAR_KEYWORD),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The task that a test has named, and the properties of calls that match it.

    `path` is the import path in `QueuedTask.task`. `signature` describes the arguments
    that a caller gives. `subject` is empty, or has the object that a method is bound
    to. `form` is the reference to a deferred callable. `chosen` names the options that
    `using()` set; `fields` has those fields of a task of `django.tasks` that it set.
    """

    path: str
    signature: Signature
    defer: Callable[..., Any]
    options: Options = field(default_factory=Options)
    chosen: tuple[str, ...] = ()
    subject: tuple[Any, ...] = ()
    form: Form | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    is_json: bool = False

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError for arguments that no call can have."""
        try:
            self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise refused_call(self.path, self.signature, kwargs, error) from None


def named(task: Nameable) -> Named:
    """The named task; raises TypeError for an object that can't be enqueued here."""
    if isinstance(task, Deferrable):
        return _task(task)
    library = sys.modules.get("cloudtask.backend.library")  # None without such tasks
    if library is not None and isinstance(task, library.Task):
        return _task_of_django(task)
    if not callable(task):
        raise TypeError(
            f"Name a task, a task of django.tasks or a function, not {task!r}."
        )
    form = callables.form_of(task)
    return Named(
        path=callables.name_of(form),
        signature=callables.signature_of(task) or ANY_ARGUMENTS,
        defer=partial(deferred.defer, task),
        form=form,
    )


def _task(task: Deferrable[Any, Any]) -> Named:
    definition, options, subject = task._parts()
    given = task.given if isinstance(task, TaskWithOptions) else ()
    signature = definition.signature
    return Named(
        path=definition.path,
        signature=_without_first(signature) if definition.has_subject else signature,
        defer=task.defer,
        options=options,
        chosen=tuple(name for name in OPTIONS if name in given),
        subject=subject,
    )


def _task_of_django(task: Task[..., Any]) -> Named:
    """The named task, with the options that differ from its declaration."""
    from cloudtask.backend import CloudTasksBackend
    from cloudtask.backend.runner import definition_of
    from cloudtask.backend.task_results import fields_of

    backend = task.get_backend()
    if not isinstance(backend, CloudTasksBackend):
        raise TypeError(
            f"{task.module_path} is run by {type(backend).__name__}, because of TASKS"
            f"[{task.backend!r}]. Its calls are never in this queue."
        )
    declared = import_string(task.module_path)
    before = fields_of(declared if isinstance(declared, type(task)) else task)
    changed = {k: v for k, v in fields_of(task).items() if v != before[k]}
    return Named(
        path=task.module_path,
        signature=_without_first(definition_of(task).signature),
        defer=task.enqueue,
        options=backend.options_of(task),
        chosen=_changed_options(backend, task, declared),
        fields={k: changed[k] for k in ("backend", "priority") if k in changed},
        is_json=True,
    )


def _changed_options(
    backend: CloudTasksBackend, task: Task[..., Any], declared: Any
) -> tuple[str, ...]:
    if not isinstance(declared, type(task)):
        return ()
    before, after = backend.options_of(declared), backend.options_of(task)
    return tuple(
        name
        for name in OPTIONS
        # The key of a unique task is made by another function each time.
        if name != "unique" and getattr(before, name) != getattr(after, name)
    )


def _without_first(signature: Signature) -> Signature:
    """The signature without the library's own argument, unless `*args` takes that."""
    first, *rest = signature.parameters.values()
    if first.kind is Parameter.VAR_POSITIONAL:
        return signature
    return signature.replace(parameters=rest)
