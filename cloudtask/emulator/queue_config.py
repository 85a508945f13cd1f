"""What a client may set on a queue."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloudtask.emulator.protos import Message
from cloudtask.emulator.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """What a client may set on a queue.

    `rate` is in dispatches per second. `http_target` and `routing` are the messages
    `HttpTarget` and `AppEngineRouting`; nobody changes them once they are here.
    """

    rate: float = 500.0
    burst: int = 100
    concurrency: int = 1000
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    http_target: Message | None = None
    routing: Message | None = None
    log_sampling: float | None = None
