"""The model: which task of a queue may be dispatched when, and what follows.

Nothing in here waits, sends, or reads a clock: `now` is an argument everywhere.
"""

from cloudtask.emulator.queues.policy import (
    DAY,
    LONGEST_HOLD,
    QueueConfig,
    RetryPolicy,
    overridden,
)
from cloudtask.emulator.queues.queue import Queue, Verdict
from cloudtask.emulator.queues.task import (
    FULL,
    HTTP_NO_RESPONSE,
    Attempt,
    Dispatch,
    Response,
    Task,
    view,
)

__all__ = [
    "DAY",
    "FULL",
    "HTTP_NO_RESPONSE",
    "LONGEST_HOLD",
    "Attempt",
    "Dispatch",
    "Queue",
    "QueueConfig",
    "Response",
    "RetryPolicy",
    "Task",
    "Verdict",
    "overridden",
    "view",
]
