"""Durations, and the waits between attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudtask.context import TaskContext


def as_timedelta(value: timedelta | float, what: str) -> timedelta:
    """A duration that was given as a timedelta or in seconds.

    Raises TypeError or ValueError; `what` names the value in the message.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{what} is no duration: {value!r}.") from error
    raise TypeError(f"{what} must be a timedelta or seconds, not {value!r}.")


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """Waiting times between attempts, in the terms of a Cloud Tasks queue.

    The wait before retry n doubles `doublings` times from `min`, then grows by
    `min * 2**doublings` a step, and never exceeds `max` (RetryConfig in
    google/cloud/tasks/v2/queue.proto). `min` and `max` are given as timedeltas or in
    seconds. Raises TypeError or ValueError for values that make no backoff.
    """

    min: timedelta
    max: timedelta
    doublings: int

    def __init__(
        self,
        min: timedelta | float = timedelta(seconds=0.1),
        max: timedelta | float = timedelta(hours=1),
        doublings: int = 16,
    ) -> None:
        object.__setattr__(self, "min", as_timedelta(min, "Backoff.min"))
        object.__setattr__(self, "max", as_timedelta(max, "Backoff.max"))
        object.__setattr__(self, "doublings", doublings)
        if type(doublings) is not int:
            raise TypeError(f"Backoff.doublings must be an int, not {doublings!r}.")
        # RetryConfig.max_doublings is an int32.
        is_right = timedelta(0) <= self.min <= self.max and 0 <= doublings < 2**31
        if not is_right:
            raise ValueError(
                f"Backoff needs 0 <= min <= max, 0 <= doublings < 2**31: {self}."
            )

    def delay(self, retry: int) -> timedelta:
        """The wait before retry number `retry`, counted from 1."""
        most, step = self.max.total_seconds(), self.min.total_seconds()
        # Floats and at most 64 doublings, since a timedelta overflows soon.
        seconds = step * 2.0 ** min(retry - 1, self.doublings, 64)
        steps = max(0, retry - 1 - self.doublings)
        seconds += steps * step * 2.0 ** min(self.doublings, 64)
        return timedelta(seconds=seconds) if seconds < most else self.max


BackoffFunction = Callable[[BaseException, "TaskContext"], "float | timedelta | None"]
