"""When a failed task is tried again, and when it is given up.

The rules are those of the proto comments on `RetryConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloudtask.emulator.protos import Message, seconds_of

RETENTION = 31 * 86_400.0
"""Seconds after which the service deletes a task, dispatched or not."""

_LONGEST_EXPONENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A queue's or a task's retry configuration; times in seconds.

    `max_attempts` counts the first attempt; -1 is unlimited. `max_retry_duration` is
    measured from the first attempt; 0 is unlimited.
    """

    max_attempts: int = 100
    max_retry_duration: float = 0.0
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16


def backoff(policy: RetryPolicy, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure (1 for the first).

    The interval doubles `max_doublings` times, then grows by the last doubled interval,
    and never passes `max_backoff`.
    """
    doubled = min(failures - 1, policy.max_doublings)
    linear_steps = failures - 1 - doubled
    interval = math.ldexp(policy.min_backoff, min(doubled, _LONGEST_EXPONENT))
    return min(interval * (1 + linear_steps), policy.max_backoff)


def is_exhausted(
    policy: RetryPolicy, *, attempts: int, first_attempt: float, now: float
) -> bool:
    """Whether a task that just failed is given up.

    Each limit that is set must be reached: with both set, the task lives on until the
    later one. With none set only the retention ends it.
    """
    has_count = policy.max_attempts > 0
    has_duration = policy.max_retry_duration > 0
    if has_count and attempts < policy.max_attempts:
        return False
    if has_duration and now - first_attempt < policy.max_retry_duration:
        return False
    return has_count or has_duration


def overridden(base: RetryPolicy, config: Message) -> RetryPolicy:
    """`base` with what the message `RetryConfig` sets; the rest stays.

    proto3 can't tell an unset number from 0, which therefore leaves `base` as it is.
    """
    return RetryPolicy(
        max_attempts=config.max_attempts or base.max_attempts,
        max_retry_duration=_length(config, "max_retry_duration", base),
        min_backoff=_length(config, "min_backoff", base),
        max_backoff=_length(config, "max_backoff", base),
        max_doublings=config.max_doublings or base.max_doublings,
    )


def _length(config: Message, field: str, base: RetryPolicy) -> float:
    if config.HasField(field):
        return seconds_of(getattr(config, field))
    return float(getattr(base, field))
