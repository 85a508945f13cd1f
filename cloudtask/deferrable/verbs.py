"""Defines the verbs of a task: defer, using, iterate, map, and asynchronous forms."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from asgiref.sync import sync_to_async

from cloudtask.asynchrony import synchronous
from cloudtask.deferrable import rooms
from cloudtask.deferrable.captured import Call, captured
from cloudtask.deferrable.familiar import hint
from cloudtask.discretion import discreet
from cloudtask.options import Options, check_known
from cloudtask.registry import Definition, Subject

if TYPE_CHECKING:
    from cloudtask.iteration import IterateOptions, Iteration, MapOptions
    from cloudtask.options.keywords import UsingOptions
    from cloudtask.receipts import Receipt
    from cloudtask.workflows.signatures import Full, Immutable, Partial, Signature

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
T_contra = TypeVar("T_contra", contravariant=True)

VERBS = (
    *("defer", "defer_many", "using", "iterate", "map", "s", "si"),
    *("adefer", "adefer_many", "aiterate", "amap"),
)
SHOWN = "defer, adefer, using, iterate, map"  # in the repr of a task


class TakesRow(Protocol[T_contra]):
    """For type checkers: a task whose function takes a row, or rows, first."""

    @property
    def _function(self) -> Callable[Concatenate[T_contra, ...], Any]: ...


class Deferrable(Generic[P, R_co]):
    """A task, a task that is bound to its subject, or a task with other options.

    Calls from asynchronous code go through `adefer`, `adefer_many`, `aiterate`, `amap`.
    """

    @discreet
    def defer(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """Have the function called with these arguments, once, later.

        Raises TypeError for arguments that the function does not take, UnsupportedValue
        for those that can't travel, EnqueueError when the queue does not take the task.
        """
        definition, options, subject = self._parts()
        arguments = _with_subject(definition, (*subject, *args))
        with synchronous(definition.path, "defer"):
            enqueued = rooms.runtime.enqueue(definition, options, arguments, kwargs)
        return rooms.receipts.receipt_of(enqueued, options)

    @discreet
    async def adefer(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """As `defer`, for asynchronous code."""
        deferred = partial(self.defer, *args, **kwargs)
        receipt: Receipt[R_co] = await sync_to_async(deferred)()
        return receipt

    @discreet
    def defer_many(
        self, calls: Iterable[Call[Callable[P, Any]]]
    ) -> list[Receipt[R_co]]:
        """Enqueue many calls, in as few requests as the service allows.

        Arguments that can't be taken or can't travel raise before anything is sent.
        When the queue refuses some calls, the EnqueueError raised has `failures`: the
        places of those calls, each with its error; all others are enqueued.
        """
        definition, options, subject = self._parts()
        taken = [
            (_with_subject(definition, (*subject, *one.args)), one.kwargs)
            for one in map(captured, calls)
        ]
        with synchronous(definition.path, "defer_many"):
            enqueued = rooms.runtime.enqueue_many(definition, options, taken)
        return [rooms.receipts.receipt_of(one, options) for one in enqueued]

    @discreet
    async def adefer_many(
        self, calls: Iterable[Call[Callable[P, Any]]]
    ) -> list[Receipt[R_co]]:
        """As `defer_many`, for asynchronous code."""
        return await sync_to_async(self.defer_many)(calls)

    @overload
    def s(  # type: ignore[overload-overlap]  # what is awaited is the better answer
        self: Deferrable[Concatenate[T, Q], Coroutine[Any, Any, U]],
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Partial[T, U]: ...
    @overload
    def s(
        self: Deferrable[Concatenate[T, Q], R_co], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> Partial[T, R_co]: ...
    @overload
    def s(
        self: Deferrable[P, Coroutine[Any, Any, U]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Full[U]: ...
    @overload
    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Full[R_co]: ...
    @discreet
    def s(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call for `chain()` and `group()`.

        In a chain the function gets the value of the step before as its first argument,
        and these arguments after it. Arguments are checked by `defer()` of the whole.
        """
        return self._signature(args, kwargs, is_immutable=False)

    @overload
    def si(
        self: Deferrable[P, Coroutine[Any, Any, U]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Immutable[U]: ...
    @overload
    def si(self, /, *args: P.args, **kwargs: P.kwargs) -> Immutable[R_co]: ...
    @discreet
    def si(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `s`, but the function gets these arguments alone, and no value."""
        return self._signature(args, kwargs, is_immutable=True)

    def _signature(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_immutable: bool
    ) -> Signature:
        definition, options, subject = self._parts()
        if definition.has_subject and not subject:  # the method of a class
            subject, args = args[:1], args[1:]
        subject = _with_subject(definition, subject)
        return rooms.workflows.Signature(
            definition, options, subject, args, kwargs, is_immutable=is_immutable
        )

    @discreet
    def using(self, **options: Unpack[UsingOptions]) -> TaskWithOptions[P, R_co]:
        """This task with other options; raises TypeError for an unknown one."""
        definition, before, subject = self._parts()
        after = before.updated(options)
        if "backoff" in options:
            after = replace(after, carries_backoff=callable(after.backoff))
        given = getattr(self, "given", frozenset()) | options.keys()
        return TaskWithOptions(definition, after, subject, given)

    @overload
    def iterate(
        self: TakesRow[T],
        queryset: Iterable[T],
        *,
        batch_size: None = None,
        **policy: Unpack[IterateOptions],
    ) -> Iteration: ...
    @overload
    def iterate(
        self: TakesRow[list[T]],
        queryset: Iterable[T],
        *,
        batch_size: int,
        **policy: Unpack[IterateOptions],
    ) -> Iteration: ...
    @discreet
    def iterate(self: Any, queryset: Any, **policy: Any) -> Iteration:
        """Call the function with every row of `queryset`, in parallel shards; then call
        `finalize` once.

        The function gets the row, then `args` and `kwargs`. `finalize` gets `args` and
        `kwargs`; so does `on_failure`, which is called instead when the run is
        cancelled or aborted. `shards` is chosen from the number of rows when left out.
        With `batch_size` the function gets lists of rows. `atomic="page"` or `"row"`
        commits what it writes to `database` together with the cursor: exactly once.
        `on_error` is "retry" (the row is tried again later, the others go on), "skip",
        "pause" or "abort". `max_failures`, a number of rows or a share below 1, pauses
        the run beyond it. With `keep` the run's rows stay after finalize.
        `include_new` also walks rows added meanwhile. `transactional` is as in
        `.using()`. `margin`, 10 s by default, is the time that a shard leaves unused
        before its deadline, and so the time that a row may take.

        Raises UnsupportedValue, with the reason, for a queryset that can't be walked.
        """
        definition, options, _ = self._parts()
        call = f"{definition.path}.iterate()"
        check_known(
            call,
            policy,
            rooms.iteration.IterateOptions.__optional_keys__ | {"batch_size"},
        )
        with synchronous(definition.path, "iterate"):
            begin = rooms.iteration.iterate
            return begin(definition, options, queryset, **policy)

    @overload
    async def aiterate(
        self: TakesRow[T],
        queryset: Iterable[T],
        *,
        batch_size: None = None,
        **policy: Unpack[IterateOptions],
    ) -> Iteration: ...
    @overload
    async def aiterate(
        self: TakesRow[list[T]],
        queryset: Iterable[T],
        *,
        batch_size: int,
        **policy: Unpack[IterateOptions],
    ) -> Iteration: ...
    @discreet
    async def aiterate(self: Any, queryset: Any, **policy: Any) -> Iteration:
        """As `iterate`, for asynchronous code."""
        begin = partial(self.iterate, queryset, **policy)
        run: Iteration = await sync_to_async(begin)()
        return run

    @overload
    def map(
        self: TakesRow[T],
        items: Iterable[T],
        *,
        batch_size: None = None,
        **policy: Unpack[MapOptions],
    ) -> Iteration: ...
    @overload
    def map(
        self: TakesRow[list[T]],
        items: Iterable[T],
        *,
        batch_size: int,
        **policy: Unpack[MapOptions],
    ) -> Iteration: ...
    @discreet
    def map(self: Any, items: Iterable[Any], **policy: Any) -> Iteration:
        """As `iterate`, over any items that can travel."""
        definition, options, _ = self._parts()
        call = f"{definition.path}.map()"
        check_known(
            call, policy, rooms.iteration.MapOptions.__optional_keys__ | {"batch_size"}
        )
        with synchronous(definition.path, "map"):
            begin = rooms.iteration.map_items
            return begin(definition, options, items, **policy)

    @overload
    async def amap(
        self: TakesRow[T],
        items: Iterable[T] | AsyncIterable[T],
        *,
        batch_size: None = None,
        **policy: Unpack[MapOptions],
    ) -> Iteration: ...
    @overload
    async def amap(
        self: TakesRow[list[T]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        batch_size: int,
        **policy: Unpack[MapOptions],
    ) -> Iteration: ...
    @discreet
    async def amap(self: Any, items: Any, **policy: Any) -> Iteration:
        """As `map`, for asynchronous code and asynchronous iterables, too."""
        if isinstance(items, AsyncIterable) and not isinstance(items, Iterable):
            items = [item async for item in items]
        begin = partial(self.map, items, **policy)
        run: Iteration = await sync_to_async(begin)()
        return run

    if TYPE_CHECKING:  # every subclass has its own

        def _parts(self) -> tuple[Definition, Options, tuple[Any, ...]]:
            """Definition, options, and the subject if there is one."""

        @property
        def _function(self) -> Callable[P, R_co]: ...

    else:  # where type checkers don't see it: they would take any name for right

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(self._no_attribute(name), name=name, obj=self)

    def _no_attribute(self, name: str) -> str:
        definition, _, _ = self._parts()
        found = hint(definition.path, name)
        return found or f"{definition.path} has no attribute {name!r}."


class TaskWithOptions(Deferrable[P, R_co]):
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
        names = ", ".join(sorted(self.given))  # a header's value may be a secret
        return f"<{self.definition.path} with {names or 'its options'}: {SHOWN}>"


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
