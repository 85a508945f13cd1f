"""Names the running task in log records, of logging and of structlog.

LOGGING = {
    "filters": {"task": {"()": "cloudtask.logging.TaskFilter"}},
    "handlers": {"console": {"filters": ["task"], ...}},
}

structlog.configure(processors=[cloudtask.logging.add_task, ...])
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from cloudtask.context import current

__all__ = ["TaskFilter", "add_task"]

FIELDS = ("task", "task_id", "queue", "attempt", "run", "shard")
LABEL = "cloudtask."  # begins the names of the labels for Cloud Logging


def facts() -> dict[str, Any]:
    """Of the task that runs here: its path, id, queue, attempt, run and shard."""
    context = current()
    if context is None:
        return {}
    found: dict[str, Any] = {
        "task": context.task,
        "task_id": context.id,
        "queue": context.queue,
        "attempt": context.attempt,
    }
    if context.iteration is not None:
        found["run"] = context.iteration.id
    if context.shard_index is not None:
        found["shard"] = context.shard_index
    return found


class TaskFilter(logging.Filter):
    """Gives each record `task`, `task_id`, `queue`, `attempt`, `run` and `shard`.

    They are None outside of tasks, so that a format may name them. A value that the
    record has already stays. With `labels`, records of tasks also have them as
    `labels`, which google-cloud-logging writes as labels of the entry.
    """

    def __init__(self, name: str = "", *, labels: bool = True) -> None:
        super().__init__(name)
        self.labels = labels

    def filter(self, record: logging.LogRecord) -> bool:
        found = facts()
        for field in FIELDS:
            if not hasattr(record, field):
                setattr(record, field, found.get(field))
        if found and self.labels:
            ours = {f"{LABEL}{field}": str(value) for field, value in found.items()}
            theirs = getattr(record, "labels", None)
            record.labels = {**ours, **(theirs if isinstance(theirs, dict) else {})}
        return True


def add_task(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A processor for structlog: the fields of the running task, as far as the event
    does not have them."""
    for field, value in facts().items():
        event.setdefault(field, value)
    return event
