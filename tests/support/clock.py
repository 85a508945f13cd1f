"""A clock that tests set ahead, in the place of the library's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloudtask import clock
from cloudtask.clock import now, stopwatch

__all__ = ["ahead", "move", "now", "put_back", "stopwatch", "virtual"]


class MovableClock(clock.Clock):
    """The time, set ahead by `seconds`.

    While it `is_virtual`, only `move` moves the stopwatches that are taken: the speed
    of the machine decides nothing.
    """

    seconds = 0.0
    is_virtual = False

    @property
    def offset(self) -> float:
        return self.seconds

    def now(self) -> float:
        return time.time() + self.seconds

    def stopwatch(self) -> Callable[[], float]:
        # Of the clock in use: a test run in virtual time also moves the stopwatch.
        return _offset_in_use if self.is_virtual else time.monotonic


def _offset_in_use() -> float:
    return clock._in_use.offset


_clock = MovableClock()
clock.use(_clock)


def move(seconds: float) -> None:
    """Set the time ahead, or back when negative, from here on."""
    _clock.seconds += seconds


@contextmanager
def ahead(seconds: float) -> Iterator[None]:
    """Set the time ahead inside the block, on top of what it is ahead already."""
    move(seconds)
    try:
        yield
    finally:
        move(-seconds)


@contextmanager
def put_back() -> Iterator[None]:
    """Put the time back after the block."""
    before = _clock.seconds
    try:
        yield
    finally:
        _clock.seconds = before


@contextmanager
def virtual() -> Iterator[None]:
    """Inside the block only `move` moves the stopwatches that are taken."""
    before, _clock.is_virtual = _clock.is_virtual, True
    try:
        yield
    finally:
        _clock.is_virtual = before
