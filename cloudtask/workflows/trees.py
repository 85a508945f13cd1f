"""Chains and groups: trees of signatures, checked as a whole and enqueued at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast, overload

from asgiref.sync import sync_to_async

from cloudtask.asynchrony import synchronous
from cloudtask.chains.failure import Failure
from cloudtask.discretion import discreet
from cloudtask.options import as_timedelta
from cloudtask.receipts import Receipt
from cloudtask.workflows.enqueueing import Policy, Tree, chosen, enqueued
from cloudtask.workflows.familiar import LINKS, STARTS, Familiar
from cloudtask.workflows.signatures import Signature, Start, Step

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R_co = TypeVar("R_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

MOST_STEPS = 1_000  # of a chain
MOST_MEMBERS = 100_000  # of a group


class _Deferred(Generic[R_co]):
    """The verbs of chains and groups; `R_co` is the type of their value."""

    __slots__ = ()

    @discreet
    def defer(self) -> Receipt[R_co]:
        """Have it run once, later: all of it, or with an error nothing.

        Raises TypeError for arguments that a function does not take, UnsupportedValue
        for those that can't travel, EnqueueError when a queue does not take a task.
        """
        with synchronous("a chain or a group", "defer"):
            made: Receipt[R_co] = enqueued(cast(Tree, self))
            return made

    @discreet
    async def adefer(self) -> Receipt[R_co]:
        """As `defer`, for asynchronous code."""
        receipt: Receipt[R_co] = await sync_to_async(self.defer)()
        return receipt


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Tree(Familiar):
    """A chain or a group: `parts` are its steps or its members."""

    is_chain: ClassVar[bool] = True
    _when_called: ClassVar[str] = "write {0!r}.defer()"
    _verbs: ClassVar[dict[str, str]] = {
        **dict.fromkeys(STARTS, _when_called),
        **dict.fromkeys(LINKS, "write chain({0!r}, ...), with on_failure= for errors"),
        "set": "write {0!r}.using(...)",
    }

    parts: tuple[Any, ...]
    on_failure: Signature | None = None
    policy: Policy = field(default_factory=Policy)

    def __repr__(self) -> str:
        name = type(self).__name__.lower()
        return f"{name}({', '.join(map(repr, self.parts[:10]))})"

    def _with(self, given: dict[str, Any]) -> Any:
        for name in ("countdown", "keep_result"):
            if given.get(name) is not None:
                given[name] = as_timedelta(given[name], name)
        return replace(self, policy=replace(self.policy, **given))


class Chain(
    _Tree,
    _Deferred[R_co],
    Step[T_contra, R_co],
    Start[R_co],
    Generic[T_contra, R_co],
):
    """Calls one after the other, each with the value of the one before."""

    __slots__ = ()

    def using(
        self,
        *,
        countdown: timedelta | float | None = None,
        transactional: bool | None = None,
        cancellable: bool = False,
        queue: str | None = None,
        database: str | None = None,
    ) -> Chain[T_contra, R_co]:
        """This chain with another start.

        `queue` and `database` are those of all its calls that have not chosen another
        one by `using()` themselves. `countdown` is the earliest start of its first
        step. `transactional` is as in `.using()` of a task. With `cancellable` its
        receipt can promise that no step has begun; the first step then writes a mark to
        the store.
        """
        made: Chain[T_contra, R_co] = self._with(
            {
                "countdown": countdown,
                "transactional": transactional,
                "cancellable": cancellable,
                "queue": queue,
                "database": database,
            }
        )
        return made


class Group(_Tree, _Deferred[list[R_co]], Start[list[R_co]], Generic[R_co]):
    """Calls side by side, whose values make a list in their order."""

    __slots__ = ()

    is_chain = False

    def then(self, step: Step[list[R_co], B]) -> Chain[Any, B]:
        """This group, and `step` once all members have succeeded, with their values."""
        policy = replace(self.policy, partial=False, queue=None, database=None)
        made: Chain[Any, B] = Chain(_parts_of_chain((self, step)), policy=policy)
        return made

    def using(
        self,
        *,
        countdown: timedelta | float | None = None,
        transactional: bool | None = None,
        keep_result: timedelta | float | None = None,
        queue: str | None = None,
        database: str | None = None,
    ) -> Group[R_co]:
        """This group with another start; `keep_result` keeps the list of its values.

        `queue` and `database` are as in `.using()` of a chain.
        """
        made: Group[R_co] = self._with(
            {
                "countdown": countdown,
                "transactional": transactional,
                "keep_result": keep_result,
                "queue": queue,
                "database": database,
            }
        )
        return made


@overload
def chain(
    a: Start[A], /, *, on_failure: Step[Any, Any] | None = None
) -> Chain[Any, A]: ...
@overload
def chain(
    a: Start[A], b: Step[A, B], /, *, on_failure: Step[Any, Any] | None = None
) -> Chain[Any, B]: ...
@overload
def chain(
    a: Start[A],
    b: Step[A, B],
    c: Step[B, C],
    /,
    *,
    on_failure: Step[Any, Any] | None = None,
) -> Chain[Any, C]: ...
@overload
def chain(
    a: Start[A],
    b: Step[A, B],
    c: Step[B, C],
    d: Step[C, D],
    /,
    *,
    on_failure: Step[Any, Any] | None = None,
) -> Chain[Any, D]: ...
@overload
def chain(
    a: Start[A],
    b: Step[A, B],
    c: Step[B, C],
    d: Step[C, D],
    e: Step[D, E],
    /,
    *,
    on_failure: Step[Any, Any] | None = None,
) -> Chain[Any, E]: ...
@overload
def chain(
    a: Start[A],
    b: Step[A, B],
    c: Step[B, C],
    d: Step[C, D],
    e: Step[D, E],
    f: Step[E, F],
    /,
    *rest: Any,
    on_failure: Step[Any, Any] | None = None,
) -> Chain[Any, Any]: ...
def chain(*parts: Any, on_failure: Any = None) -> Any:
    """Calls one after the other: each gets the value of the one before, first.

    A group as a step hands on the list of its values. `on_failure` is called with a
    `Failure` for each step that is kept as a failed task. Raises ValueError for an
    empty chain, and TypeError for what is no signature, chain or group.
    """
    if not parts:
        raise ValueError("chain() needs at least one step.")
    return Chain(_parts_of_chain(parts), _failure_of("chain", on_failure))


@overload
def group(
    members: Iterable[Start[A]],
    /,
    *,
    on_failure: Step[Any, Any] | None = None,
    partial: Literal[False] = False,
) -> Group[A]: ...
@overload
def group(
    *members: Start[A],
    on_failure: Step[Any, Any] | None = None,
    partial: Literal[False] = False,
) -> Group[A]: ...
@overload
def group(
    members: Iterable[Start[A]],
    /,
    *,
    on_failure: Step[Any, Any] | None = None,
    partial: Literal[True],
) -> Group[A | Failure]: ...
@overload
def group(
    *members: Start[A],
    on_failure: Step[Any, Any] | None = None,
    partial: Literal[True],
) -> Group[A | Failure]: ...
def group(*members: Any, on_failure: Any = None, partial: bool = False) -> Any:
    """Calls side by side, given one by one or as an iterable.

    `.then(step)` gives the list of their values to a step. With `partial` it does so
    once all members have ended: one that is kept as a failed task has a `Failure` in
    the list. `on_failure` is called with a `Failure` for each of them. Raises TypeError
    for what is no signature, chain or group.
    """
    if len(members) == 1 and not isinstance(members[0], _KINDS):
        if not isinstance(members[0], Iterable):
            raise _no_part("group", members[0])
        members = tuple(members[0])
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"A group has {MOST_MEMBERS:,} members at most.")
    for member in members:
        if not isinstance(member, _KINDS):
            raise _no_part("group", member)
    failure = _failure_of("group", on_failure)
    return Group(tuple(members), failure, Policy(partial=partial))


_KINDS = (Signature, Chain, Group)
_PARTS = {"chain": "steps", "group": "members"}


def _parts_of_chain(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The steps of a chain; those of a chain among them are its own."""
    found: list[Any] = []
    for part in parts:
        if not isinstance(part, _KINDS):
            raise _no_part("chain", part)
        if not isinstance(part, Chain):
            found.append(part)
            continue
        if part.on_failure is not None:
            raise ValueError(
                "A chain inside a chain becomes a part of it: give on_failure to the "
                "outer chain."
            )
        found += chosen(part).parts
    if len(found) > MOST_STEPS:
        raise ValueError(
            f"A chain has {MOST_STEPS:,} steps at most, not {len(found):,}."
        )
    return tuple(found)


def _no_part(function: str, part: object) -> TypeError:
    if hasattr(part, "si") and hasattr(part, "path"):
        return TypeError(
            f"{function}() takes signatures: write {part.path.rpartition('.')[2]}"
            f".s(...) for the task {part.path}."
        )
    if hasattr(part, "module_path") and hasattr(part, "enqueue"):
        written = f"{part.module_path.rpartition('.')[2]}.s(...)"
        return TypeError(
            f"{function}() takes signatures: write {written} for the task "
            f"{part.module_path} of django.tasks. It needs a CloudTasksBackend."
        )
    if isinstance(part, Iterable) and not isinstance(part, (str, bytes, dict)):
        return TypeError(
            f"{function}() takes its {_PARTS[function]} one by one, not as one "
            f"{type(part).__name__}: write {function}(*{_PARTS[function]})."
        )
    if callable(part):
        return TypeError(
            f"{function}() takes signatures: decorate the function with @task, or "
            "write cloudtask.deferred.s(function, ...)."
        )
    return TypeError(
        f"{function}() takes f.s(...), chains and groups, not {type(part).__name__}."
    )


def _failure_of(function: str, given: Any) -> Signature | None:
    if given is None or isinstance(given, Signature):
        return given
    error = _no_part(function, given)
    raise TypeError(f"on_failure of {error}")
