"""The time, which tests can set ahead: one place for the library and its stores.

Wherever a worker's clock would decide something, the database's decides instead; both
are moved by the same offset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

_ahead = 0.0  # seconds
_held: float | None = None
_is_virtual = False


def now() -> float:
    """Unix seconds."""
    return time.time() + _ahead if _held is None else _held


@cache
def _now_kind() -> Any:
    from django.db.models.functions import Now

    class UtcNow(Now):
        """On MySQL `Now` is in the zone of the server, whose clock is put back in
        autumn; what Django writes there is UTC."""

        def as_mysql(self, compiler: Any, connection: Any, **context: Any) -> Any:
            context["template"] = "UTC_TIMESTAMP(6)"
            return self.as_sql(compiler, connection, **context)

    return UtcNow


def database_now() -> Any:
    """An expression for the database's own time."""
    now = _now_kind()()
    return now + timedelta(seconds=_ahead) if _ahead else now


@cache
def _time_kind() -> Any:
    from django.db.models import DateTimeField, Func

    class UtcTime(Func):
        """Text as a time in UTC, which is what `database_now` gives."""

        template = "%(expressions)s"
        output_field = DateTimeField()

        def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
            template = "(%(expressions)s || '+00')::timestamptz"
            return self.as_sql(compiler, connection, template=template, **context)

    return UtcTime


def database_time(moment: datetime) -> Any:
    """An expression for a moment that is comparable with `database_now`, whatever zone
    the settings give the database."""
    from django.db.models import TextField, Value

    text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return _time_kind()(Value(text, output_field=TextField()))


@contextmanager
def ahead(seconds: float) -> Iterator[None]:
    """Set the time ahead inside the block, on top of what it is ahead already.

    For tests: it moves the whole process.
    """
    move(seconds)
    try:
        yield
    finally:
        move(-seconds)


def move(seconds: float) -> None:
    """Set the time ahead, or back when negative, from here on."""
    global _ahead
    _ahead += seconds


def hold(at: float | None) -> float | None:
    """Have `now` stand still at a moment, or go on with None; returns what was before.

    For tests that must be the same each time. The database's time goes on.
    """
    global _held
    before, _held = _held, at
    return before


def stopwatch() -> Callable[[], float]:
    """A function that tells the seconds since some moment, to measure how long work
    takes."""
    # The builtin itself: the loop over rows calls it for each row.
    return _moved if _is_virtual else time.monotonic


def _moved() -> float:
    return _ahead


@contextmanager
def virtual() -> Iterator[None]:
    """Inside the block only `move` moves the stopwatches that are taken.

    For tests, in which the speed of the machine is to decide nothing.
    """
    global _is_virtual
    before, _is_virtual = _is_virtual, True
    try:
        yield
    finally:
        _is_virtual = before
