"""One call of a task in flight: frozen values, changed with `replace` only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from cloudtask.options import Options


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The receipt of `defer()`: the call's id, its Cloud Tasks task id, its queue."""

    id: str
    name: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One call of a task, in flight.

    `payload` is the encoded call; it is empty while the call rests in a store, under
    the key `stored`, with the SHA-256 `digest`. `outboxed` tells that an outbox row of
    the same key was made in `options.database`. `created` and `eta` are unix seconds.
    `attempts` counts the attempts of the messages that this one succeeds (`Retry`), and
    `sequence` those messages themselves. `unique` is the key of which one may wait.
    """

    id: str
    task: str
    queue: str
    name: str
    payload: bytes
    created: float
    eta: float | None = None
    attempts: int = 0
    sequence: int = 0
    stored: str | None = None
    digest: str | None = None
    named: bool = False
    outboxed: bool = False
    unique: str | None = None
    options: Options

    @property
    def receipt(self) -> Enqueued:
        return Enqueued(self.id, self.name, self.queue)

    @property
    def key(self) -> str:
        """What tells this message from its predecessors and successors."""
        return f"{self.id}-{self.sequence}" if self.sequence else self.id

    def successor(self, *, now: float, delay: timedelta, attempts: int) -> Message:
        """The same call once more, `delay` from `now`; its name follows from this one,
        so that making it twice makes one task."""
        sequence = self.sequence + 1
        return replace(
            self,
            name=f"{self.id}-{sequence}",
            named=False,
            outboxed=False,
            eta=now + delay.total_seconds(),  # from which it expires, too
            attempts=attempts,
            sequence=sequence,
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """What Cloud Tasks says about one dispatch of a message, read from its headers.

    Times are unix seconds. `retries` is X-CloudTasks-TaskRetryCount.
    """

    retries: int = 0
    executions: int = 0
    eta: float | None = None
    previous_response: int | None = None
    retry_reason: str | None = None
