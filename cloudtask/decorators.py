"""Provides `@task`, which lets a function run later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from django.apps import apps
from django.core import checks

from cloudtask import registry
from cloudtask.deferrable import (
    BoundTask,
    Call,
    Deferrable,
    Task,
    TaskWithOptions,
    call,
    find_task,
    keep_task,
)
from cloudtask.exceptions import INSTALL, NOT_INSTALLED, ConfigurationError
from cloudtask.options import OPTIONS, Options, check_options
from cloudtask.options.keywords import TaskOptions, UsingOptions
from cloudtask.registry import Definition

if TYPE_CHECKING:
    from cloudtask.schedules import Schedule
    from cloudtask.targets.guards import (
        csrf_exempt_if_task,
        task_only,
        task_or_superuser_only,
    )

    Schedules = str | timedelta | Schedule | Sequence[str | timedelta | Schedule]

__all__ = [
    "BoundTask",
    "Call",
    "Deferrable",
    "Task",
    "TaskOptions",
    "TaskWithOptions",
    "UsingOptions",
    "call",
    "csrf_exempt_if_task",
    "find_task",
    "task",
    "task_only",
    "task_or_superuser_only",
]

_OF_TASK = (
    "schedule",
    *(one.name for one in OPTIONS.values() if not one.only_in_using),
)
_OF_VIEWS = ("csrf_exempt_if_task", "task_only", "task_or_superuser_only")

P = ParamSpec("P")
R = TypeVar("R")


@checks.register("cloudtask")
def app_is_installed(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """E010: the app is installed. Other checks are only registered when it is."""
    if apps.is_installed("cloudtask"):
        return []
    return [checks.Error(NOT_INSTALLED, hint=INSTALL, id="cloudtask.E010")]


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *, schedule: Schedules | None = None, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Any = None, /, *, schedule: Any = None, **options: Any) -> Any:
    """Let a function run later, registered under its import path.

    Works on module-level functions, on methods, on class and static methods, and on
    `async def`. `schedule` is a cron expression, a timedelta, a `Schedule`, or a list
    of these. Raises ConfigurationError for what a worker could not import and for a
    schedule that is wrong, TypeError for an unknown option.
    """
    for name in options:
        if name in OPTIONS and OPTIONS[name].only_in_using:
            raise TypeError(
                f"Option {name!r} belongs to a single call: .using({name}=...).defer()"
            )
    check_options("@task", options, _OF_TASK, OPTIONS)
    chosen = Options().updated(options)
    if function is None:
        return lambda given: _scheduled(_made(given, chosen), schedule)
    return _made(function, chosen)


def _scheduled(made: Task[Any, Any], schedule: Any) -> Task[Any, Any]:
    if schedule is not None:
        from cloudtask.schedules import declare

        declare(made._self_definition, schedule)
    return made


def library_task(
    path: str, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """As `@task`, under a path that is independent of where the function lies.

    Tasks of the library travel under names of their own: a function may move to another
    file while calls of it wait in a queue. `apps` imports their modules.
    """
    chosen = Options().updated(options)
    return lambda function: _made(function, chosen, path)


def _made(given: Any, options: Options, path: str | None = None) -> Task[Any, Any]:
    function, binding = _unwrapped(given)
    _refuse_unimportable(given, function)
    path = path or f"{function.__module__}.{function.__qualname__}"
    definition = Definition(path, function, options, binding)
    registry.register(definition)
    made: Task[Any, Any] = Task(given, definition)
    keep_task(made)
    return made


def _unwrapped(given: Any) -> tuple[Any, str]:
    """The plain function, and how it is bound to a class."""
    if isinstance(given, Task):
        raise ConfigurationError(f"{given!r} is a task already; use @task once.")
    if isinstance(given, classmethod | staticmethod):
        return given.__func__, type(given).__name__
    if inspect.isclass(given) or inspect.ismethod(given) or not callable(given):
        raise ConfigurationError(
            f"@task takes a function, not {given!r}. To have a method, put @task where "
            "its class defines it."
        )
    qualname = getattr(given, "__qualname__", "")
    is_method = "." in qualname and "<locals>" not in qualname
    return given, "method" if is_method else "function"


def _refuse_unimportable(given: Any, function: Any) -> None:
    qualname = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not qualname or not module:
        reason = "has no name of its own, so a worker can't import it. Use `def`."
    elif "<lambda>" in qualname:
        reason = "is a lambda, which a worker can't import. Use `def` at module level."
    elif "<locals>" in qualname:
        reason = (
            "is defined inside a function, so a worker can't import it. Move it to "
            "module level, and pass what it closes over as arguments."
        )
    elif module == "__main__":
        reason = (
            "is defined in the script that runs, which a worker can't import. Move it "
            "to a module, such as an app's tasks.py."
        )
    elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        reason = "is a generator: calling it runs none of its code."
    else:
        return
    raise ConfigurationError(f"{given!r} can't be a task: it {reason}")


def __getattr__(name: str) -> Any:
    """The decorators of views; they load more than a module of tasks needs."""
    if name not in _OF_VIEWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloudtask.targets import guards

    return getattr(guards, name)
