"""Decides how often and how fast tasks are tried: retries, rates and throttling.

The proto comments on `RetryConfig` and `RateLimits` give the rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cloudtask.emulator.protocol import Message, seconds_of

DAY = 86_400.0

# Larger exponents overflow a float; the cap on the backoff applies long before.
_LONGEST_EXPONENT = 64

# Ten billionths of a token: the rounding error of hours of refilling.
_ROUNDING = 1e-8

_SLOWEST = 1 / 64
_RECOVERY = 10.0
_REACTION = 1.0
LONGEST_HOLD = 3600.0
"""The most seconds for which a Retry-After stops a queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The retry configuration of a queue or a task; times in seconds.

    `max_attempts` counts the first attempt; -1 is unlimited. `max_retry_duration` is
    measured from the first attempt; 0 is unlimited.
    """

    max_attempts: int = 100
    max_retry_duration: float = 0.0
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The configuration of a queue, with the service's defaults.

    `rate` is in dispatches per second. `http_target` and `routing` are the messages
    `HttpTarget` and `AppEngineRouting`, which nothing changes any more. `tombstone` is
    how many seconds the name of a deleted or completed task stays taken, `retention`
    after how many a task is deleted, dispatched or not.
    """

    rate: float = 500.0
    burst: int = 100
    concurrency: int = 1000
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    http_target: Message | None = None
    routing: Message | None = None
    log_sampling: float | None = None
    tombstone: float = DAY
    retention: float = 31 * DAY


def backoff(policy: RetryPolicy, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure (1 for the first).

    The interval doubles `max_doublings` times, then grows by the last doubled interval,
    and never exceeds `max_backoff`.
    """
    doubled = min(failures - 1, policy.max_doublings)
    linear_steps = failures - 1 - doubled
    interval = math.ldexp(policy.min_backoff, min(doubled, _LONGEST_EXPONENT))
    return min(interval * (1 + linear_steps), policy.max_backoff)


def is_exhausted(
    policy: RetryPolicy, *, attempts: int, first_attempt: float, now: float
) -> bool:
    """Whether a task that just failed is given up.

    Each limit that is set must be reached: with both set, the later one decides. With
    none set only the retention ends the task.
    """
    has_count = policy.max_attempts > 0
    has_duration = policy.max_retry_duration > 0
    if has_count and attempts < policy.max_attempts:
        return False
    if has_duration and now - first_attempt < policy.max_retry_duration:
        return False
    return has_count or has_duration


def overridden(base: RetryPolicy, config: Message) -> RetryPolicy:
    """`base` with the fields that the message `RetryConfig` sets.

    proto3 can't tell an unset number from 0, which therefore leaves `base` as it is.
    """
    return RetryPolicy(
        max_attempts=config.max_attempts or base.max_attempts,
        max_retry_duration=_length(config, "max_retry_duration", base),
        min_backoff=_length(config, "min_backoff", base),
        max_backoff=_length(config, "max_backoff", base),
        max_doublings=config.max_doublings or base.max_doublings,
    )


def _length(config: Message, name: str, base: RetryPolicy) -> float:
    if config.HasField(name):
        return seconds_of(getattr(config, name))
    return float(getattr(base, name))


@dataclass(slots=True)
class Bucket:
    """The token bucket that keeps a queue to its rate.

    It holds at most `burst` tokens, refills at a rate, and gives one to each dispatch.
    All times are the caller's clock, in seconds. A new bucket is full.
    """

    burst: float
    at: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def refill(self, rate: float, now: float) -> None:
        """Add the tokens that `rate` per second has brought since the last call."""
        if now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * rate)
        # A clock that was set back must not stop the queue until it catches up.
        self.at = now

    def delay(self, rate: float) -> float:
        """Seconds until a token is there, as of the last refill."""
        missing = 1.0 - self.tokens
        if missing <= _ROUNDING:
            return 0.0
        return missing / rate

    def take(self) -> None:
        self.tokens -= 1.0


@dataclass(slots=True)
class LastMinute:
    """Counts events of the last sixty seconds, in steps of a second."""

    counts: list[int] = field(default_factory=lambda: [0] * 60)
    second: int = 0

    def add(self, now: float) -> None:
        self._forget(int(now))
        self.counts[self.second % 60] += 1

    def total(self, now: float) -> int:
        self._forget(int(now))
        return sum(self.counts)

    def _forget(self, second: int) -> None:
        for each in range(max(self.second, second - 60) + 1, second + 1):
            self.counts[each % 60] = 0
        self.second = max(self.second, second)


@dataclass(slots=True)
class Throttle:
    """System throttling: how far 429 and 503 slow a queue down.

    The service says that it lowers the rate and considers Retry-After (proto comments
    on `HttpRequest` and `AppEngineHttpRequest`); by how much is not published. Here
    each congested second halves the rate, and each ten quiet seconds double it again.
    All times are the caller's clock, in seconds.
    """

    lowered_to: float = 1.0
    lowered_at: float = float("-inf")
    held_until: float = float("-inf")

    def factor(self, now: float) -> float:
        """The part of the configured rate that is let through, 1/64 to 1."""
        if self.lowered_to >= 1.0:
            return 1.0
        recovered: float = self.lowered_to * 2 ** ((now - self.lowered_at) / _RECOVERY)
        if recovered >= 1.0:
            self.lowered_to = 1.0
        return min(recovered, 1.0)

    def delay(self, now: float) -> float:
        """Seconds until the target's Retry-After has passed."""
        return max(self.held_until - now, 0.0)

    def congest(self, now: float, retry_after: float | None) -> None:
        """Note that the target answered that it is overloaded."""
        if retry_after is not None:
            hold = min(retry_after, LONGEST_HOLD)
            self.held_until = max(self.held_until, now + hold)
        # Many responses to one overload count once.
        if now - self.lowered_at >= _REACTION:
            self.lowered_to = max(self.factor(now) / 2, _SLOWEST)
            self.lowered_at = now
