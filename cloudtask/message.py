"""Defines one call in flight: frozen values, changed with `replace` only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

from cloudtask.options import Options


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The receipt of `defer()`: the call's id, its Cloud Tasks task id, its queue."""

    id: str
    name: str
    queue: str


@dataclass(frozen=True, slots=True)
class Carried:
    """Context that travels with a call: what the carriers of the project captured, and
    what telemetry did. Each is JSON, an object by the names of carriers, or empty."""

    project: str = field(default="", repr=False)
    telemetry: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One call of a task, in flight.

    `payload` is the encoded call. It is empty while the call is in a store, under the
    key `stored`; `digest` is the SHA-256 of what was stored. `outboxed` tells that the
    database `options.database` got an outbox row of the same key. `created` and `eta`
    are unix seconds. A message that a `Retry` made succeeds another one: `sequence`
    counts its predecessors, `attempts` their attempts. One message may wait per
    `unique`. `carried` and `telemetry` are the parts of a `Carried`. A step of a chain
    has the chain's id and its place in it, and the rest of the chain behind its call in
    the payload. The value of the last step of a chain goes to `member` of `group`.
    `root` is the outermost chain, if that is another one: a cancel is marked under its
    id. With `exact` its first step marks that it begins.
    A call of a schedule has its key, and the moment at which it was due, `occurrence`;
    one that runs `alone` does not begin while another one runs.
    """

    id: str
    task: str
    queue: str
    name: str
    payload: bytes = field(repr=False)
    created: float
    eta: float | None = None
    attempts: int = 0
    sequence: int = 0
    stored: str | None = None
    digest: str | None = None
    named: bool = False
    outboxed: bool = False
    unique: str | None = None
    carried: str = field(default="", repr=False)
    telemetry: str = field(default="", repr=False)
    chain: str | None = None
    place: int = 0
    group: str | None = None
    member: int = 0
    root: str | None = None
    exact: bool = False
    occurrence: float | None = None
    schedule: str | None = None
    alone: bool = False
    options: Options

    @property
    def receipt(self) -> Enqueued:
        return Enqueued(self.id, self.name, self.queue)

    @property
    def whole(self) -> str | None:
        """The id of the outermost chain, which its receipt has; None outside of one."""
        return self.root or self.chain

    @property
    def key(self) -> str:
        """The name of this message in tables; its predecessors have others."""
        return f"{self.id}-{self.sequence}" if self.sequence else self.id

    def successor(self, *, now: float, delay: timedelta, attempts: int) -> Message:
        """The same call once more, `delay` after `now`.

        Its name follows from this one: when it is made twice, one task is made.
        """
        sequence = self.sequence + 1
        return replace(
            self,
            name=f"{self.id}-{sequence}",
            named=False,
            outboxed=False,
            eta=now + delay.total_seconds(),  # its envelope expires MAX_AGE after that
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


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it was delivered: the first value of a delivery's journey."""

    message: Message
    delivery: Delivery
