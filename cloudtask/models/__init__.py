"""All tables of the library; Django looks for models here."""

from __future__ import annotations

from cloudtask.models.calls import (
    Execution,
    FailedTask,
    LateStart,
    OutboxMessage,
    Payload,
    PayloadChunk,
    UniqueKey,
)
from cloudtask.models.iteration import (
    IterationChunk,
    IterationFailure,
    IterationRun,
    IterationShard,
)
from cloudtask.models.results import TaskResultRow

__all__ = [
    "Execution",
    "FailedTask",
    "IterationChunk",
    "IterationFailure",
    "IterationRun",
    "IterationShard",
    "LateStart",
    "OutboxMessage",
    "Payload",
    "PayloadChunk",
    "TaskResultRow",
    "UniqueKey",
]
