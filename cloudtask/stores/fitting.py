"""Checks that a stored record fits: each value is of a kind that is written there.

A table or an entity may hold what this library has never written: a text in the place
of a number, a state that does not exist, a number that no counter reaches. A record is
checked when it is read, before anything is computed from it. So one error stands for
all that such a value could do later, and it names the column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudtask.discretion import printable
from cloudtask.envelope import Place
from cloudtask.exceptions import BadSignature

SMALL = 2**31 - 2  # of a counter that can still grow by one
LARGE = 2**53
YEARS = range(1970, 9000)  # a time in them stays a time when it is moved
SHOWN = 100  # characters of an id in a sentence


class Unreadable(BadSignature):
    """A value of a stored record is not of a kind that this library writes there."""

    def __init__(self, place: Place) -> None:
        where = " / ".join(printable(part)[:SHOWN] for part in place)
        super().__init__(
            f"The stored value {where} can't be read: this library does not write "
            "such values there."
        )


class _Unread:
    """Stands for a value that the driver of a database could not read."""

    def __repr__(self) -> str:
        return "<unreadable>"


UNREAD: Any = _Unread()
NEUTRAL: Mapping[type, Any] = {
    int: 0,
    str: "",
    bool: False,
    float: 0.0,
    bytes: b"",
    list: [],
    datetime: datetime(YEARS.start, 1, 1, tzinfo=UTC),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """The values that fit in a column: of `kind` up to `most`, or one of `choices`.

    `neutral` is shown in the place of a value that does not fit.
    """

    name: str
    kind: type
    neutral: Any
    is_null: bool = False
    most: int = LARGE
    choices: frozenset[str] = frozenset()

    def fits(self, value: Any) -> bool:
        if value is None:
            return self.is_null
        kind: Any = self.kind
        if kind is datetime:
            return isinstance(value, kind) and value.year in YEARS
        if kind is bytes:
            return isinstance(value, bytes | memoryview)
        if not isinstance(value, kind):
            return False
        if kind is str:
            return value in self.choices if self.choices else len(value) <= self.most
        if kind is int:
            return type(value) is int and 0 <= value <= self.most
        if kind is float:
            return math.isfinite(value) and 0 <= value <= self.most
        return kind is not list or all(isinstance(one, str) for one in value)


class Rules:
    """The rules of a record's columns."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.of = {rule.name: rule for rule in rules}
        plain = [r for r in self.of.values() if not r.is_null and not r.choices]
        self._counts = [(r.name, r.most) for r in plain if r.kind is int]
        self._texts = [(r.name, r.most) for r in plain if r.kind is str]
        self._others = [
            (rule.name, rule.is_null, rule.fits)
            for rule in self.of.values()
            if rule not in plain or rule.kind not in (int, str)
        ]

    def misfit(self, values: Mapping[str, Any]) -> str | None:
        """The name of a value that does not fit, if there is one. A record may lack
        values."""
        # Each record is checked when it is read, so a call for each value is too many.
        get = values.get
        for name, most in self._counts:
            count = get(name, 0)
            if type(count) is not int or not 0 <= count <= most:
                return name
        for name, most in self._texts:
            text = get(name, "")
            if not isinstance(text, str) or len(text) > most:
                return name
        for name, is_null, fits in self._others:
            if name in values:
                value = values[name]
                if not (is_null if value is None else fits(value)):
                    return name
        return None

    def misfits(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All names of values that do not fit, with the neutral values."""
        return {
            name: rule.neutral
            for name, rule in self.of.items()
            if name in values and not rule.fits(values[name])
        }
