"""Collects all tables of the library; Django looks for models here."""

from __future__ import annotations

from django.apps import apps

from cloudtask.exceptions import INSTALL, NOT_INSTALLED, ConfigurationError

# Django's own error, of a model without an app, would name none of the causes.
if not apps.is_installed("cloudtask"):
    raise ConfigurationError(f"{NOT_INSTALLED} {INSTALL}")

from cloudtask.models.calls import (
    CallMark,
    Execution,
    FailedTask,
    LateStart,
    OutboxMessage,
    Payload,
    PayloadChunk,
    UniqueKey,
    UpkeepNote,
)
from cloudtask.models.dashboard import (
    Call,
    Doctor,
    Failed,
    Group,
    Iteration,
    Outbox,
    Overview,
    Queue,
    Result,
    Schedule,
    Task,
)
from cloudtask.models.iteration import (
    IterationChunk,
    IterationFailure,
    IterationRun,
    IterationShard,
)
from cloudtask.models.results import TaskResultRow
from cloudtask.models.schedules import ScheduleRow
from cloudtask.models.workflows import WorkflowGroup, WorkflowMember

__all__ = [
    "Call",
    "CallMark",
    "Doctor",
    "Execution",
    "Failed",
    "FailedTask",
    "Group",
    "Iteration",
    "IterationChunk",
    "IterationFailure",
    "IterationRun",
    "IterationShard",
    "LateStart",
    "Outbox",
    "OutboxMessage",
    "Overview",
    "Payload",
    "PayloadChunk",
    "Queue",
    "Result",
    "Schedule",
    "ScheduleRow",
    "Task",
    "TaskResultRow",
    "UniqueKey",
    "UpkeepNote",
    "WorkflowGroup",
    "WorkflowMember",
]
