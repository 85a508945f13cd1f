"""The token bucket that holds a queue to its rate."""

from __future__ import annotations

from dataclasses import dataclass, field

# Ten billionths of a token: what rounding may cost after hours of refilling.
_ROUNDING = 1e-8


@dataclass(slots=True)
class Bucket:
    """`burst` tokens at most, refilled at a rate, one taken per dispatch.

    All times are the caller's clock, in seconds. A new bucket is full.
    """

    burst: float
    at: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def refill(self, rate: float, now: float) -> None:
        """Add what `rate` tokens per second have brought since the last call."""
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
