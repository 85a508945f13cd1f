"""Classes and functions that travel by their import path, and a judge of sameness."""

from __future__ import annotations

import enum
import math
import threading
from collections import namedtuple
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"
    BLUE = (1, 2.5)


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Bit(enum.IntFlag):
    ONE = 1
    TWO = 2


@dataclass
class Plain:
    name: str
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    value: Any
    parent: Frozen | None = None


@dataclass
class Counted:
    """Its __init__ must not run again when it arrives."""

    start: int
    made: int = field(init=False)
    later: str = field(init=False)

    def __post_init__(self) -> None:
        self.made = self.start + 1
        self.beside = "set by hand"
        self.start = -self.start

    @cached_property
    def lock(self) -> Any:
        return threading.Lock()


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Holder:
    lock: Any


@dataclass
class Listed(list):  # type: ignore[type-arg]
    name: str = ""


class Point(NamedTuple):
    x: float
    y: float = 0.0


Pair = namedtuple("Pair", "left right")


class Loose(Point):
    """A namedtuple with a __dict__."""


class Outer:
    class Inner(enum.Enum):
        ONE = 1

    @staticmethod
    def static() -> str:
        return "static"


class Text(str):
    """A subclass that would lose its type."""


class Money:
    def __init__(self, amount: Decimal) -> None:
        self.amount = amount


def greet() -> str:
    return "hello"


borrowed = math.floor
nameless = lambda: None  # noqa: E731  what the refusal of lambdas needs


def is_same(a: Any, b: Any) -> bool:
    """Equal in type and value, all the way down; nan is nan and 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, complex):
        return is_same(a.real, b.real) and is_same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, slice):
        return is_same([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    if isinstance(a, dict):
        return all_same(a.items(), b.items())
    if isinstance(a, (set, frozenset)):
        return all_same(sorted(a, key=repr), sorted(b, key=repr))
    if isinstance(a, (list, tuple)):
        return all_same(a, b)
    if is_dataclass(a):
        return all(is_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


def all_same(first: Any, second: Any) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(map(is_same, first, second))
