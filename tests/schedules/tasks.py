"""Tasks to which tests give schedules; none is declared when this is imported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cloudtask import current, task

seen: list[Any] = []
occurrences: list[Any] = []
during: list[Callable[[], None]] = []  # what `slow` does while it runs


@task
def note(word: str = "due") -> None:
    seen.append((current(required=True).occurrence, word))


@task
def record() -> None:
    context = current(required=True)
    occurrences.append((context.schedule, context.occurrence))


@task
def other() -> None:
    seen.append((current(required=True).occurrence, "other"))


@task
def slow() -> None:
    seen.append((current(required=True).occurrence, "slow"))
    for act in during:
        act()


@task(database="other")
def elsewhere() -> None:
    seen.append("elsewhere")


def moments() -> list[datetime]:
    return [at for at, _ in seen]
