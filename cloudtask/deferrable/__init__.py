"""Defines what can be enqueued: tasks, bound tasks, and tasks with other options."""

from __future__ import annotations

from cloudtask.deferrable.captured import Call, call
from cloudtask.deferrable.verbs import Deferrable, TaskWithOptions
from cloudtask.deferrable.wrapper import BoundTask, Task, find_task, keep_task

__all__ = [
    "BoundTask",
    "Call",
    "Deferrable",
    "Task",
    "TaskWithOptions",
    "call",
    "find_task",
    "keep_task",
]
