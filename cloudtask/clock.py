"""Tells the time: that of this process, and that of databases as an expression.

Wherever a worker's clock would decide something, the database's decides instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any


class Clock:
    """The time as it is. A subclass in its place, by `use`, moves the whole process."""

    @property
    def offset(self) -> float:
        """The seconds by which the time of databases is ahead of their own."""
        return 0.0

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def stopwatch(self) -> Callable[[], float]:
        """A function that returns seconds, to measure how long work takes."""
        # The builtin itself, because the loop over rows calls it for each row.
        return time.monotonic


_in_use = Clock()


def use(clock: Clock) -> Clock:
    """Put `clock` in the place of the one in use, and return that."""
    global _in_use
    before, _in_use = _in_use, clock
    return before


def now() -> float:
    """Unix seconds."""
    return _in_use.now()


def stopwatch() -> Callable[[], float]:
    """A function that returns seconds, to measure how long work takes."""
    return _in_use.stopwatch()


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


def offset() -> float:
    """The seconds by which `database_now` is ahead of the time of databases."""
    return _in_use.offset


def database_now() -> Any:
    """An expression for the database's own time."""
    now, offset = _now_kind()(), _in_use.offset
    return now + timedelta(seconds=offset) if offset else now


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
