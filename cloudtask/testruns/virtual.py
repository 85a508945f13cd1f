"""Provides virtual time, which jumps from eta to eta without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from typing import Any

from django.utils import timezone

from cloudtask import clock
from cloudtask.clock import Clock
from cloudtask.options import as_timedelta


class VirtualClock(Clock):
    """The time of a run, in unix seconds; it advances only to the eta of a later call.

    The library uses it from `start` to `release`, so the delays of calls that a task
    enqueues start at virtual time, to the microsecond.
    """

    def __init__(self) -> None:
        self.time = clock.now()
        self.moved = 0.0
        self.before = Clock()

    def start(self) -> None:
        self.before = clock.use(self)

    def release(self) -> None:
        clock.use(self.before)

    def now(self) -> float:
        return self.time

    @property
    def offset(self) -> float:
        """The clock of a database can't be stopped, so it is set ahead by as much."""
        return self.before.offset + self.moved

    def stopwatch(self) -> Callable[[], float]:
        return self.before.stopwatch()

    def move_to(self, due: float) -> None:
        if due <= self.time:
            return
        self.moved += due - self.time
        self.time = due

    def moment(self, until: timedelta | float | datetime | None) -> float:
        """The unix seconds of a moment, or of a duration from now.

        Raises ValueError for a naive moment, TypeError for anything else.
        """
        if until is None:
            return float("inf")
        if not isinstance(until, datetime):
            return self.time + as_timedelta(until, "until").total_seconds()
        if timezone.is_naive(until):
            raise ValueError(f"until must be an aware datetime, not {until!r}.")
        return until.timestamp()


@contextmanager
def frozen(time: VirtualClock) -> Iterator[None]:
    """Have `timezone.now()` return the time of `time` inside the block.

    Replaces the name `datetime` in django.utils.timezone. A new function `now` would
    not reach modules that have imported the old one by name.
    """
    module: Any = timezone
    before = module.datetime
    module.datetime = _VirtualDatetime(time, before)
    try:
        yield
    finally:
        module.datetime = before


class _VirtualDatetime:
    """Acts as the class `before`, but its `now()` returns virtual time.

    It is no subclass, because freezegun and time-machine replace that class.
    """

    def __init__(self, time: VirtualClock, before: Any) -> None:
        self._time = time
        self._before = before

    def now(self, tz: tzinfo | None = None) -> Any:
        return self._before.fromtimestamp(self._time.time, tz)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._before(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._before)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)
