"""What can be enqueued: a task, one bound to its subject, one with other options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

import wrapt
from asgiref.sync import sync_to_async

from cloudtask import codec, iteration, registry, runtime
from cloudtask.codec import shapes, tags
from cloudtask.exceptions import ConfigurationError
from cloudtask.iteration import Iteration
from cloudtask.iteration.policy import IterateOptions, MapOptions
from cloudtask.message import Enqueued
from cloudtask.options import Options, check_known
from cloudtask.options.keywords import UsingOptions
from cloudtask.registry import Definition, Subject

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments, captured for `defer_many`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Call:
    """Capture the arguments of one call for `defer_many`."""
    return Call(args, kwargs)


def _captured(one: Call) -> Call:
    if isinstance(one, Call):
        return one
    kind = type(one).__name__  # its value may be a secret
    raise TypeError(
        f"defer_many() takes cloudtask.call(...) for each call, not {kind}."
    )


class Deferrable(Generic[P, R]):
    """What can be enqueued: a task, one bound to its subject, one with options."""

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        """Definition, options, and the subject if there is one."""
        raise NotImplementedError  # every subclass has its own

    def defer(self, /, *args: P.args, **kwargs: P.kwargs) -> Enqueued:
        """Have the function called with these arguments, once, later.

        Raises TypeError for arguments that the function does not take, UnsupportedValue
        for those that can't travel, EnqueueError when the queue does not take the task.
        """
        definition, options, subject = self._parts()
        arguments = _with_subject(definition, (*subject, *args))
        return runtime.enqueue(definition, options, arguments, kwargs)

    async def adefer(self, /, *args: P.args, **kwargs: P.kwargs) -> Enqueued:
        """As `defer`, for asynchronous code."""
        deferred = partial(self.defer, *args, **kwargs)
        return await sync_to_async(deferred)()

    def defer_many(self, calls: Iterable[Call]) -> list[Enqueued]:
        """Enqueue many calls, in as few requests as the service allows.

        Arguments that can't be taken or can't travel raise before anything is sent.
        When the queue refuses some calls, the EnqueueError raised has `failures`: the
        places of those calls, each with its error; all others are enqueued.
        """
        definition, options, subject = self._parts()
        taken = [
            (_with_subject(definition, (*subject, *one.args)), one.kwargs)
            for one in map(_captured, calls)
        ]
        return runtime.enqueue_many(definition, options, taken)

    def using(self, **options: Unpack[UsingOptions]) -> TaskWithOptions[P, R]:
        """The same with other options; raises TypeError for an unknown one."""
        definition, before, subject = self._parts()
        after = before.updated(options)
        if "backoff" in options:
            after = replace(after, carries_backoff=callable(after.backoff))
        given = getattr(self, "given", frozenset()) | options.keys()
        return TaskWithOptions(definition, after, subject, given)

    def iterate(self, queryset: Any, **policy: Unpack[IterateOptions]) -> Iteration:
        """Call the function with every row of `queryset`, in parallel shards; then call
        `finalize` once.

        The function gets the row, then `args` and `kwargs`; so does `finalize`, without
        the row, and `on_failure` in its place when the run is cancelled or aborted.
        `shards` is chosen from the number of rows when left out. With `batch_size` the
        function gets lists of rows. `atomic="page"` or `"row"` commits what it writes
        to `database` together with the cursor: exactly once. `on_error` is "retry"
        (the row is tried again later, the others go on), "skip", "pause" or "abort".
        `max_failures`, a number of rows or a share below 1, pauses the run beyond it.
        With `keep` the run's rows stay after finalize. `include_new` also walks rows
        added meanwhile. `transactional` is as in `.using()`. `margin`, 10 s, is what a
        shard leaves of its deadline at least, and so how long a row may take.

        Raises UnsupportedValue, with the reason, for a queryset that can't be walked.
        """
        definition, options, _ = self._parts()
        call = f"{definition.path}.iterate()"
        check_known(call, policy, IterateOptions.__optional_keys__)
        return iteration.iterate(definition, options, queryset, **policy)

    def map(self, items: Iterable[Any], **policy: Unpack[MapOptions]) -> Iteration:
        """As `iterate`, over any items that can travel."""
        definition, options, _ = self._parts()
        check_known(f"{definition.path}.map()", policy, MapOptions.__optional_keys__)
        return iteration.map_items(definition, options, items, **policy)


class TaskWithOptions(Deferrable[P, R]):
    """A task and the options of its next calls; `given` names those of `.using()`."""

    __slots__ = ("definition", "given", "options", "subject")

    def __init__(
        self,
        definition: Definition,
        options: Options,
        subject: tuple[Any, ...],
        given: frozenset[str],
    ) -> None:
        self.given = given
        self.definition = definition
        self.options = options
        self.subject = subject

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        return self.definition, self.options, self.subject

    def __repr__(self) -> str:
        return f"<{self.definition.path} with options>"


class BoundTask(wrapt.BoundFunctionWrapper, Deferrable[P, R]):  # type: ignore[type-arg]
    """A task as a method of an instance or a class."""

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        definition, options, _ = self._self_parent._parts()
        subject = self._self_instance
        if definition.binding == "classmethod":
            subject = getattr(self.__wrapped__, "__self__", None)
        if not definition.has_subject or subject is None:
            return definition, options, ()
        return definition, options, (subject,)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        definition, _, subject = self._parts()
        owner = subject[0] if subject else self._self_owner
        return getattr, (owner, definition.function.__name__)

    def __reduce_ex__(
        self, protocol: Any
    ) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return self.__reduce__()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = super().__call__(*args, **kwargs)
        return result


class Task(wrapt.FunctionWrapper, Deferrable[P, R]):  # type: ignore[type-arg]
    """A function that may run later; called plainly, it runs now."""

    __bound_function_wrapper__ = BoundTask

    def __init__(self, wrapped: Callable[P, R], definition: Definition) -> None:
        super().__init__(wrapped, _call_now)
        self._self_definition = definition
        self._self_is_placed = definition.binding != "method"

    def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
        if not self._self_is_placed:
            self._place()
        definition = self._self_definition
        return definition, definition.options, ()

    def _place(self) -> None:
        """Find out what the class made of the task, with which it was not there yet."""
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

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = super().__call__(*args, **kwargs)
        return result

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> BoundTask[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return super().__get__(instance, owner)

    def __repr__(self) -> str:
        return f"<task {self.path}>"

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return find_task, (self.path,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[[str], Any], tuple[str]]:
        return self.__reduce__()

    def __copy__(self) -> Task[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Task[P, R]:
        return self


def _static_attribute(function: Any) -> Any:
    """What stands under the qualified name of `function`, without it being bound."""
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


codec.register(Task, tags.TASK, encode=lambda task: task.path, decode=_decode_task)


def _call_now(
    wrapped: Callable[..., R],
    instance: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> R:
    return wrapped(*args, **kwargs)


def _with_subject(definition: Definition, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a saved model instance travel as its key when it is the subject."""
    if not definition.has_subject or not args:
        return args
    from django.db.models import Model

    subject = args[0]
    if not isinstance(subject, Model) or subject._state.adding or subject.pk is None:
        return args
    saved = Subject(type(subject), subject.pk, subject._state.db or "default")
    return (saved, *args[1:])
