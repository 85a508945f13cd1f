"""Values that tell when a decoder touches more of them than their type."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Func

touched: list[str] = []


def _touch(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        touched.append(name)
        return iter(()) if name == "__iter__" else 1

    return method


@dataclass(eq=False)
class Trap:
    """Every way that Python has to look into a value, noted."""

    name: str = "trap"

    for _special in (
        *("__iter__", "__len__", "__str__", "__repr__", "__format__", "__index__"),
        *("__int__", "__float__", "__complex__", "__bool__", "__getitem__"),
        *("__contains__", "__fspath__", "__call__", "__lt__", "__setstate__"),
        *("replace", "clone", "as_sql", "resolve_expression", "keys", "items"),
        *("as_integer_ratio", "utcoffset", "to_python", "get", "copy", "query"),
    ):
        locals()[_special] = _touch(_special)
    del _special


def call_me(*args: Any, **kwargs: Any) -> str:
    """What a payload may name, and a decoder may not call."""
    touched.append("call_me")
    return "called"


@dataclass
class Described:
    """A dataclass with a field that a property stands for."""

    amount: int

    @property  # type: ignore[no-redef]
    def amount(self) -> int:
        return self._amount

    @amount.setter
    def amount(self, value: int) -> None:
        touched.append("setter")
        self._amount = value


@dataclass
class Order:
    amount: int
    note: str = ""
    lines: list[Any] = field(default_factory=list)

    def total(self) -> int:
        return self.amount


@dataclass
class _Size:
    width: int


class Paper(_Size, enum.Enum):
    """An Enum whose members are also instances of a dataclass."""

    SMALL = 1


class Loud(Func):
    """An expression of the project whose constructor does something."""

    function = "LOUD"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        touched.append("constructor")
        super().__init__(*args, **kwargs)
