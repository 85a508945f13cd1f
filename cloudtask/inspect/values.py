"""The states of a call, and its facts as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from cloudtask.message import Message


class CallState(Enum):
    """Where a call is."""

    AWAITS_COMMIT = "awaits commit"  # the open transaction has enqueued it
    OUTBOX = "outbox"  # committed, and not sent yet
    PARKED = "parked"  # the queue refused it; it needs a person
    QUEUED = "queued"  # its task waits in a queue
    DISPATCHED = "dispatched"  # a delivery is under way
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # kept as a failed task
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # it has succeeded without a result, or never was


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCall:
    """A call. Fields that its place does not tell are None or empty.

    `chain` is the id of the chain or group that it is a step of. For the id of a chain
    or a group, `step` is the id of the step that was found, and the state is that
    step's. `arguments` are masked. `is_cancelled` is also true for a call that runs on
    after a cancel.
    """

    id: str
    state: CallState
    task: str | None = None
    queue: str | None = None
    name: str | None = None
    chain: str | None = None
    step: str | None = None
    database: str | None = None
    tries: int = 0
    due_at: datetime | None = None
    enqueued_at: datetime | None = None
    error: str = ""
    arguments: str = field(default="", repr=False)
    is_cancelled: bool = False


def stripped(text: object) -> str:
    """An id without the white space around it; a receipt in its place is refused."""
    if isinstance(text, str):
        return text.strip()
    kind = type(text).__name__
    raise TypeError(f"The id of a call is a str, not {kind}: give the receipt's .id.")


@dataclass(frozen=True, slots=True)
class Located:
    """A call, and its message where that could be read. `is_chain` is true for the id
    of a chain or a group."""

    found: FoundCall
    message: Message | None = None
    is_chain: bool = False
