"""Tasks for chains and groups; each notes what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from cloudtask import Failure, PermanentTaskFailure, Retry, current, task
from tests.testapp.models import Author

A_DAY = timedelta(days=1)

seen: list[Any] = []
broken: set[str] = set()
failures: list[Failure] = []


@task(keep_result=A_DAY)
def give(value: Any) -> Any:
    seen.append(("give", value))
    return value


@task(keep_result=A_DAY)
def add(a: int, b: int = 1) -> int:
    seen.append(("add", a, b))
    return a + b


@task(keep_result=A_DAY, atomic=True)
def add_atomically(a: int, b: int = 1) -> int:
    Author.objects.create(name=f"{a}+{b}")
    return a + b


@task(keep_result=A_DAY)
async def aadd(a: int, b: int = 1) -> int:
    return a + b


@task(keep_result=A_DAY)
def total(values: Sequence[int]) -> int:
    seen.append(("total", list(values)))
    return sum(values)


@task(keep_result=A_DAY)
def collect(values: Any) -> Any:
    seen.append(("collect", values))
    return values


@task(keep_result=A_DAY)
def nothing() -> None:
    seen.append(("nothing",))


@task(keep_result=A_DAY, max_attempts=2)
def fragile(value: int) -> int:
    if value in broken or "all" in broken:
        raise ValueError(f"{value} is broken")
    return value * 10


@task(keep_result=A_DAY)
def permanent(value: int) -> int:
    raise PermanentTaskFailure("never")


@task(keep_result=A_DAY)
def patient(value: int) -> int:
    if current(required=True).attempt < 3:
        raise Retry(delay=1)
    return value


@task
def note_failure(failure: Failure, tag: str = "") -> None:
    failures.append(failure)


@task(keep_result=A_DAY)
def unspeakable(value: int) -> Any:
    seen.append(("unspeakable", value))
    return lambda: value


class Shop:
    @task(keep_result=A_DAY)
    @classmethod
    def price(cls, value: int, factor: int = 2) -> int:
        return value * factor


@task(keep_result=A_DAY)
def pair(before: Any, number: int) -> Any:
    return before, number


@task(keep_result=A_DAY, atomic=True)
def pair_atomically(before: Any, number: int) -> Any:
    Author.objects.create(name="pair")
    return before, number


@task(keep_result=A_DAY)
async def apair(before: Any, number: int) -> Any:
    return before, number


@task(keep_result=A_DAY)
def blob(size: int) -> str:
    return "x" * size


@task(keep_result=A_DAY)
def length(value: str, more: str = "") -> int:
    return len(value) + len(more)


@task
def blob_unkept(size: int) -> str:
    return "x" * size


@task
def growing(size: int) -> str:
    """Another value at each call."""
    seen.append("growing")
    return "x" * (size + seen.count("growing"))


@task
def untransportable() -> Any:
    return lambda: 1


@task(atomic=True)
def unspeakable_atomically(value: int) -> Any:
    Author.objects.create(name="unspeakable")
    return lambda: value


@task
def unkept(value: int) -> int:
    return value


@task
def unkept_failing(value: int) -> int:
    raise ValueError(f"{value} is broken")


@task(keep_result=A_DAY, cancellable=True)
def stoppable(value: int) -> int:
    seen.append(("stoppable", value))
    return value


@task(keep_result=A_DAY, max_attempts=5)
def watching() -> None:
    seen.append(("watching", current(required=True).is_cancelled))
    if "watching" in broken:
        raise ValueError("broken")


@task(keep_result=A_DAY, atomic=True)
def note_atomically(value: Any) -> Any:
    Author.objects.create(name="noted")
    return value


@task(cancellable=True)
def mark(name: str) -> None:
    Author.objects.create(name=name)


@task(atomic=True)
def mark_atomically(name: str) -> None:
    Author.objects.create(name=name)


@task
def mark_step(name: str) -> None:
    Author.objects.create(name=name)
