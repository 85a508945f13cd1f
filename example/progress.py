"""Waits for the tasks, with a progress bar in a terminal and plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from servers import Server

WIDTH = 40
PATIENCE = 120.0  # seconds without any progress after which the demo gives up
POLL = 0.1  # seconds


class Failed(Exception):
    """The demo did not finish."""


class Progress:
    """Waits for `total` tasks while the servers run and tasks make progress."""

    def __init__(self, total: int, servers: Sequence[Server]) -> None:
        self.total = total
        self.servers = servers
        self.started = time.monotonic()
        self.is_bar = sys.stdout.isatty()
        self.tenth_shown = -1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def follow(self, count: Callable[[], int]) -> None:
        """Show the result of `count` until it is `total`."""
        last, moved = -1, time.monotonic()
        while last < self.total:
            done = count()
            if done != last:
                last, moved = done, time.monotonic()
                self._show(done)
            self._pause(moved, f"{done:,} of {self.total:,} tasks")
        if self.is_bar:
            print()

    def wait_for(self, is_there: Callable[[], bool], what: str) -> None:
        started = time.monotonic()
        while not is_there():
            self._pause(started, what)

    def _pause(self, since: float, what: str) -> None:
        for server in self.servers:
            server.check()
        if time.monotonic() - since > PATIENCE:
            raise Failed(f"no progress for {PATIENCE:g} s while waiting for {what}")
        time.sleep(POLL)

    def _show(self, done: int) -> None:
        counted = f"{done:,} of {self.total:,}, {done / self.seconds:,.0f} a second"
        if self.is_bar:
            filled = WIDTH * done // self.total
            bar = "#" * filled + "-" * (WIDTH - filled)
            print(f"\r  [{bar}] {counted}  ", end="", flush=True)
        elif done * 10 // self.total > self.tenth_shown:
            self.tenth_shown = done * 10 // self.total
            print(f"  {counted}", flush=True)
