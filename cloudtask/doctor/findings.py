"""Findings: a probe of the doctor makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Grade(StrEnum):
    """How bad a finding is. The order is from harmless to bad."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The observation of a probe and its cure, which is empty if nothing is to be
    done."""

    grade: Grade
    what: str
    cure: str = ""

    @property
    def is_fault(self) -> bool:
        return self.grade is Grade.FAILED

    @property
    def is_warning(self) -> bool:
        return self.grade is Grade.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options of one examination. Only with `send` anything is written.

    `url` is the address of the handler's service where the settings don't tell it.
    """

    send: bool = False
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A question of the doctor. `look` may raise whatever it likes; after `seconds` it
    is not waited for any longer."""

    id: str
    about: str
    look: Callable[[Wish], Iterator[Finding]]
    seconds: float = 5.0


def ok(what: str) -> Finding:
    return Finding(Grade.OK, what)


def skipped(what: str) -> Finding:
    return Finding(Grade.SKIPPED, what)


def warning(what: str, cure: str) -> Finding:
    return Finding(Grade.WARNING, what, cure)


def failed(what: str, cure: str) -> Finding:
    return Finding(Grade.FAILED, what, cure)


def lasting(age: timedelta) -> str:
    """A duration in its largest unit, such as "9 min"."""
    seconds = int(age.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
