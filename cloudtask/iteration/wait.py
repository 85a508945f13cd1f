"""Waits for the end of a run, with a bar that shows its progress."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Protocol, TextIO

from cloudtask import conf
from cloudtask.discretion import discreet
from cloudtask.exceptions import CloudTaskError
from cloudtask.runs import ENDED, Progress, RunState

BAR = 30  # characters
POLL = 0.5  # seconds between two looks


class _Handle(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def state(self) -> RunState: ...
    def progress(self) -> Progress: ...


class Waiting:
    """One wait for the end of a run, without the pauses between two looks."""

    def __init__(
        self,
        run: _Handle,
        timeout: timedelta | float | None,
        has_bar: bool,
        file: TextIO | None,
    ) -> None:
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.run = run
        self.stop = None if seconds is None else time.monotonic() + seconds
        self.left = seconds or 0.0  # less the pauses so far
        self.has_bar = has_bar
        self.out = file or sys.stderr

    @discreet
    def is_over(self) -> bool:
        """Look once, and draw the bar. Raises TimeoutError after the timeout, and
        CloudTaskError if the run would never end."""
        state = self.run.state
        if state in (*ENDED, RunState.ROLLED_BACK):
            if self.has_bar and state is not RunState.ROLLED_BACK:
                self.out.write(f"\r{_bar(self.run.progress())}\n")
            return True
        if self.has_bar:
            self.out.write(f"\r{_bar(self.run.progress())}")
            self.out.flush()
        if self.stop is None:
            _refuse_to_wait_for_ever(self.run)
        elif self._is_late(self.stop):
            raise TimeoutError(
                f"Iteration {self.run.id} is still {state}: {self.run.progress()}"
            )
        return False

    def _is_late(self, stop: float) -> bool:
        """By the clock, or by the pauses alone: a test may have stopped the clock."""
        is_late = time.monotonic() >= stop or self.left <= 0
        self.left -= POLL
        return is_late


def _refuse_to_wait_for_ever(run: _Handle) -> None:
    backend = conf.transport_options(conf.settings())["BACKEND"]
    if backend == conf.MEMORY_TRANSPORT:
        raise CloudTaskError(
            f"Iteration {run.id} would never end: its tasks stay in the memory of "
            "this process. Call cloudtask.testing.run_queued() to run them."
        )


def _bar(progress: Progress) -> str:
    filled = int(BAR * progress.fraction)
    return f"[{'#' * filled}{' ' * (BAR - filled)}] {progress}"
