"""A class that is no model, with tasks of every kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudtask import task

noted: list[Any] = []


@dataclass
class Shape:
    sides: int = 3

    @task
    def draw(self, colour: str, *, thick: bool = False) -> str:
        """Draw it."""
        noted.append(("draw", self, colour, thick))
        return colour

    @task
    async def adraw(self, colour: str) -> str:
        noted.append(("adraw", self, colour))
        return colour

    @task
    @classmethod
    def outer_class(cls, n: int) -> type:
        noted.append(("outer_class", cls, n))
        return cls

    @classmethod
    @task
    def inner_class(cls, n: int) -> type:
        noted.append(("inner_class", cls, n))
        return cls

    @task
    @staticmethod
    def outer_static(value: Any) -> Any:
        noted.append(("outer_static", value))
        return value

    @staticmethod
    @task
    def inner_static(value: Any) -> Any:
        noted.append(("inner_static", value))
        return value


class Square(Shape):
    pass


def loudly(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        noted.append("wrapped")
        return function(*args, **kwargs)

    return wrapper


@task
@loudly
def decorated(a: int, b: int = 2) -> int:
    """Add."""
    noted.append((a, b))
    return a + b


@task
@loudly
async def adecorated(a: int) -> int:
    noted.append(("async", a))
    return a


@task(queue="mail", small=True, max_attempts=5)
def optioned(a: int) -> int:
    return a
