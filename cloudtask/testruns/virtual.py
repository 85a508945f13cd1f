"""Time that moves from eta to eta without anybody waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from unittest.mock import patch

from django.utils import timezone

from cloudtask import clock
from cloudtask.options import as_timedelta


class VirtualClock:
    """The time of a run, in unix seconds: it moves only when something is due later.

    The library's own clock follows it from `start` to `release`, so that what a task
    enqueues counts from here, to the microsecond.
    """

    def __init__(self) -> None:
        self.time = clock.now()
        self.moved = 0.0
        self.before: float | None = None

    def start(self) -> None:
        self.before = clock.hold(self.time)

    def move_to(self, due: float) -> None:
        if due <= self.time:
            return
        # The database's clock can't be held: it is set ahead by as much.
        clock.move(due - self.time)
        self.moved += due - self.time
        self.time = due
        clock.hold(due)

    def release(self) -> None:
        clock.move(-self.moved)
        clock.hold(self.before)

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
    """Have `timezone.now()` tell `time` inside the block.

    The name `datetime` in django.utils.timezone is replaced, not `now`, which others
    have imported by name.
    """

    class Told(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Frozen(datetime, metaclass=Told):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            if tz is None:
                return datetime.fromtimestamp(time.time)
            return datetime.fromtimestamp(time.time, UTC).astimezone(tz)

    with patch.object(timezone, "datetime", Frozen):
        yield
