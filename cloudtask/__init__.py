"""Reliable background tasks for Django on Google Cloud Tasks.

The public names are loaded when first used. Importing the package alone loads neither
models nor Google's clients, so tools such as the emulator start without Django.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudtask.context import TaskContext, current
    from cloudtask.decorators import task
    from cloudtask.deferrable import Task, call
    from cloudtask.delivering.cancelling import Cancellation
    from cloudtask.exceptions import (
        CloudTaskError,
        PermanentTaskFailure,
        ResultError,
        ResultExpired,
        ResultNotKept,
        Retry,
        SingularTaskFailure,
        TaskFailed,
    )
    from cloudtask.inspect.cancelling import acancel, cancel
    from cloudtask.message import Enqueued
    from cloudtask.options import Backoff
    from cloudtask.receipts import Receipt
    from cloudtask.schedules import Schedule
    from cloudtask.workflows import Chain, Failure, Group, chain, group

__version__ = "0.2.0"

__all__ = [
    "Backoff",
    "Cancellation",
    "Chain",
    "CloudTaskError",
    "Enqueued",
    "Failure",
    "Group",
    "PermanentTaskFailure",
    "Receipt",
    "ResultError",
    "ResultExpired",
    "ResultNotKept",
    "Retry",
    "Schedule",
    "SingularTaskFailure",
    "Task",
    "TaskContext",
    "TaskFailed",
    "acancel",
    "call",
    "cancel",
    "chain",
    "current",
    "group",
    "task",
]

_HOMES = {
    "Backoff": "options",
    "Cancellation": "delivering.cancelling",
    "Chain": "workflows",
    "CloudTaskError": "exceptions",
    "Enqueued": "message",
    "Failure": "workflows",
    "Group": "workflows",
    "PermanentTaskFailure": "exceptions",
    "Receipt": "receipts",
    "ResultError": "exceptions",
    "ResultExpired": "exceptions",
    "ResultNotKept": "exceptions",
    "Retry": "exceptions",
    "Schedule": "schedules",
    "SingularTaskFailure": "exceptions",
    "Task": "deferrable",
    "TaskContext": "context",
    "TaskFailed": "exceptions",
    "acancel": "inspect.cancelling",
    "call": "deferrable",
    "cancel": "inspect.cancelling",
    "chain": "workflows",
    "current": "context",
    "group": "workflows",
    "task": "decorators",
}


def __getattr__(name: str) -> Any:
    if name == "inspect":  # the module itself
        return import_module(f"{__name__}.inspect")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
