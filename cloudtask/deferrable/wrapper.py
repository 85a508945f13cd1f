"""Defines `Task`, the wrapper that `@task` puts around a function or method."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

import wrapt

from cloudtask import registry
from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import register as register_type
from cloudtask.deferrable.verbs import SHOWN, VERBS, Deferrable
from cloudtask.discretion import discreet
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import Options
from cloudtask.registry import Definition

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)


class BoundTask(wrapt.BoundFunctionWrapper, Deferrable[P, R_co]):  # type: ignore[type-arg]
    """A task as a method of an instance or a class."""

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        definition, options, _ = self._self_parent._parts()
        subject = self._self_instance
        if definition.binding == "classmethod":
            subject = getattr(self.__wrapped__, "__self__", None)
        if not definition.has_subject or subject is None:
            return definition, options, ()
        return definition, options, (subject,)

    @property
    def path(self) -> str:
        """The import path under which the task is registered."""
        return str(self._parts()[0].path)

    @property
    def options(self) -> Options:
        """The options given to `@task`, with the defaults of the rest."""
        return self._parts()[1]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        definition, _, subject = self._parts()
        owner = subject[0] if subject else self._self_owner
        return getattr, (owner, definition.function.__name__)

    def __reduce_ex__(
        self, protocol: Any
    ) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return self.__reduce__()

    @discreet
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        result: R_co = super().__call__(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        definition, _, subject = self._parts()
        of = f" of {type(subject[0]).__name__}" if subject else ""
        return f"<task {definition.path}{of}: {SHOWN}>"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *VERBS, "options", "path"]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return _attribute(self, name)


class Task(wrapt.FunctionWrapper, Deferrable[P, R_co]):  # type: ignore[type-arg]
    """A function that may run later; a plain call runs it now."""

    __bound_function_wrapper__ = BoundTask

    def __init__(self, wrapped: Callable[P, R_co], definition: Definition) -> None:
        super().__init__(wrapped, _call_now)
        self._self_definition = definition
        self._self_is_placed = definition.binding != "method"

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        if not self._self_is_placed:
            self._place()
        definition = self._self_definition
        return definition, definition.options, ()

    def _place(self) -> None:
        """Find out how the class, which did not exist at first, binds the task."""
        definition = self._self_definition
        attribute = _static_attribute(definition.function)
        if isinstance(attribute, classmethod) and sys.version_info >= (3, 13):
            raise ConfigurationError(
                f"{self.path} is a class method whose class its task can't see on this "
                "Python. Write @task above @classmethod, not below."
            )
        if isinstance(attribute, staticmethod):
            definition = replace(definition, binding="staticmethod")
            registry.register(definition)
            self._self_definition = definition
        self._self_is_placed = True

    @property
    def path(self) -> str:
        """The import path under which the task is registered."""
        return str(self._self_definition.path)

    @property
    def options(self) -> Options:
        """The options given to `@task`, with the defaults of the rest."""
        options: Options = self._self_definition.options
        return options

    @discreet
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        result: R_co = super().__call__(*args, **kwargs)
        return result

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R_co]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R_co],
        instance: object,
        owner: type | None = None,
    ) -> BoundTask[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return super().__get__(instance, owner)

    def __repr__(self) -> str:
        return f"<task {self.path}: {SHOWN}>"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *VERBS, "options", "path"]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return _attribute(self, name)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return find_task, (self.path,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[[str], Any], tuple[str]]:
        return self.__reduce__()

    def __copy__(self) -> Task[P, R_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Task[P, R_co]:
        return self


def _attribute(task: Any, name: str) -> Any:
    """An attribute of the function; the AttributeError may name a verb of ours."""
    try:
        return getattr(task.__wrapped__, name)
    except AttributeError as error:
        raise AttributeError(task._no_attribute(name), name=name, obj=task) from error


def _static_attribute(function: Any) -> Any:
    """The attribute at the qualified name of `function`, without binding it."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = inspect.getattr_static(found, name, None)
    return found


_tasks: dict[str, Task[Any, Any]] = {}


def find_task(path: str) -> Task[Any, Any]:
    """The task registered under `path`; raises TaskNotFound."""
    registry.find(path)
    return _tasks[path]


def _decode_task(content: Any) -> Task[Any, Any]:
    """The task that a payload names; imports less than `find_task` may."""
    return _tasks[registry.find_loaded(shapes.text(content)).path]


def keep_task(task: Task[Any, Any]) -> None:
    """Let `find_task` find it; its definition is registered."""
    _tasks[task.path] = task


register_type(Task, tags.TASK, encode=lambda task: task.path, decode=_decode_task)


def _call_now(
    wrapped: Callable[..., R_co],
    instance: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> R_co:
    return wrapped(*args, **kwargs)
