"""Simulates how Cloud Tasks sends the tasks of one queue, in virtual time.

Nothing here waits or reads a clock. It is written apart from the emulator, so that each
of the two checks the other (tests/test_simulator.py).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

# "500/50/5": begin with 500 operations a second, and add 50 % every 5 minutes
# (https://cloud.google.com/tasks/docs/manage-cloud-task-scaling).
RAMP_START, RAMP_GROWTH, RAMP_SECONDS = 500.0, 1.5, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a queue: dispatches a second, saved-up dispatches, dispatches at
    once; waits between attempts in seconds."""

    rate: float = 500.0
    burst: int = 100
    concurrency: int = 1000
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    doublings: int = 16

    def wait(self, failures: int) -> float:
        """Seconds after the failure with this number, from 1."""
        doubled = min(failures - 1, self.doublings)
        steps = failures - doubled
        return min(self.min_backoff * math.pow(2.0, doubled) * steps, self.max_backoff)


@dataclass(frozen=True, slots=True)
class Drained:
    """How a queue was worked off. `seconds` is the end of the last attempt, `attempts`
    their number, `by_second` those that began in each second."""

    seconds: float
    attempts: int
    by_second: Counter[int]
    most_at_once: int


def drain(
    tasks: int,
    limits: Limits,
    *,
    seconds_of: Callable[[int, int], float],
    fails: Callable[[int, int], bool] = lambda task, attempt: False,
) -> Drained:
    """Send `tasks` tasks that are all due at 0, until each has succeeded.

    `seconds_of` gives how long an attempt lasts, and `fails` whether it fails, both by
    the number of the task, from 0, and of the attempt, from 1.
    """
    now = last = 0.0
    tokens, filled_at = float(limits.burst), 0.0
    due = [(0.0, number, number, 1) for number in range(tasks)]
    running: list[tuple[float, int, int, int]] = []
    by_second: Counter[int] = Counter()
    ticket, most = tasks, 0
    while due or running:
        while running and running[0][0] <= now:
            ended, _, task, attempt = heapq.heappop(running)
            last = ended
            if fails(task, attempt):
                ticket += 1
                again = ended + limits.wait(attempt), ticket, task, attempt + 1
                heapq.heappush(due, again)
        tokens = min(limits.burst, tokens + (now - filled_at) * limits.rate)
        filled_at = now
        while due and due[0][0] <= now and tokens > 1 - 1e-8:
            if len(running) >= limits.concurrency:
                break
            _, order, task, attempt = heapq.heappop(due)
            tokens -= 1
            by_second[int(now)] += 1
            end = now + seconds_of(task, attempt)
            heapq.heappush(running, (end, order, task, attempt))
            most = max(most, len(running))
        moments = [running[0][0]] if running else []
        if due and len(running) < limits.concurrency:
            filled = now + max(0.0, 1 - tokens) / limits.rate
            moments.append(max(due[0][0], filled, now + 1e-6))
        now = max(now, min(moments, default=now))
    return Drained(last, sum(by_second.values()), by_second, most)


def ramp_seconds(tasks: float, rate: float) -> float:
    """Seconds to send `tasks` by the ramp-up that Google asks for, up to `rate` a
    second in all queues."""
    allowed, seconds = min(RAMP_START, rate), 0.0
    while allowed < rate and tasks > allowed * RAMP_SECONDS:
        tasks -= allowed * RAMP_SECONDS
        seconds += RAMP_SECONDS
        allowed = min(allowed * RAMP_GROWTH, rate)
    return seconds + tasks / allowed
