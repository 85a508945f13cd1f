"""System throttling: what 429 and 503 do to a queue's effective rate.

The service says that it lowers the rate and considers Retry-After (proto comments on
`HttpRequest` and `AppEngineHttpRequest`); by how much, nobody has published. Here each
congested second halves the rate, and each ten quiet seconds double it again.
"""

from __future__ import annotations

from dataclasses import dataclass

_SLOWEST = 1 / 64
_RECOVERY = 10.0
_REACTION = 1.0
LONGEST_HOLD = 3600.0
"""Seconds that a Retry-After may stop a queue at most."""


@dataclass(slots=True)
class Throttle:
    """How far a queue is slowed down; all times are the caller's clock, in seconds."""

    lowered_to: float = 1.0
    lowered_at: float = float("-inf")
    held_until: float = float("-inf")

    def factor(self, now: float) -> float:
        """What part of the configured rate is let through, 1/64 to 1."""
        if self.lowered_to >= 1.0:
            return 1.0
        recovered: float = self.lowered_to * 2 ** ((now - self.lowered_at) / _RECOVERY)
        if recovered >= 1.0:
            self.lowered_to = 1.0
        return min(recovered, 1.0)

    def delay(self, now: float) -> float:
        """Seconds until the target wants to hear from the queue again."""
        return max(self.held_until - now, 0.0)

    def congest(self, now: float, retry_after: float | None) -> None:
        """The target answered that it is overloaded."""
        if retry_after is not None:
            hold = min(retry_after, LONGEST_HOLD)
            self.held_until = max(self.held_until, now + hold)
        # A burst of answers to one overload counts once.
        if now - self.lowered_at >= _REACTION:
            self.lowered_to = max(self.factor(now) / 2, _SLOWEST)
            self.lowered_at = now
