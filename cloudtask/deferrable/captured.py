"""Captures the arguments of single calls, for `defer_many`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

F_contra = TypeVar("F_contra", contravariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


@dataclass(frozen=True, slots=True, repr=False)
class Call(Generic[F_contra]):
    """The arguments of one call; `F_contra` is the type of functions that take them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class ArgumentsThatDoNotFit:
    """Stands in the error of a type checker where a task takes other arguments."""


# Type checkers can't compare `*args` and `**kwargs` with the function of a task that
# they don't see yet, so each number of positional arguments has a line of its own.
# mypy looks for the types that the task wants: it takes the line before the last one
# for arguments of other types. Keywords, and more than five arguments, fit any task.
@overload
def call() -> Call[Callable[[], Any]]: ...
@overload
def call(a: A, /) -> Call[Callable[[A], Any]]: ...
@overload
def call(a: A, b: B, /) -> Call[Callable[[A, B], Any]]: ...
@overload
def call(a: A, b: B, c: C, /) -> Call[Callable[[A, B, C], Any]]: ...
@overload
def call(a: A, b: B, c: C, d: D, /) -> Call[Callable[[A, B, C, D], Any]]: ...
@overload
def call(a: A, b: B, c: C, d: D, e: E, /) -> Call[Callable[[A, B, C, D, E], Any]]: ...
@overload
def call(
    a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, /, *args: Any, **kwargs: Any
) -> Call[Callable[..., Any]]: ...
@overload
def call(*args: object) -> Call[ArgumentsThatDoNotFit]: ...
@overload
def call(*args: Any, **kwargs: Any) -> Call[Callable[..., Any]]: ...
def call(*args: Any, **kwargs: Any) -> Call[Any]:
    """Capture the arguments of one call for `defer_many`."""
    return Call(args, kwargs)


def captured(one: Call[Any]) -> Call[Any]:
    """`one`, if it is a captured call; raises TypeError."""
    if isinstance(one, Call):
        return one
    kind = type(one).__name__  # its value may be a secret
    raise TypeError(
        f"defer_many() takes cloudtask.call(...) for each call, not {kind}."
    )
