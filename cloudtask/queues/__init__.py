"""Compares the queues that a project declares with those that Cloud Tasks has."""

from __future__ import annotations

from cloudtask.queues.actual import (
    ActualQueue,
    QueuesUnknown,
    SeenTask,
    delete,
    forget_cached,
    list_cached,
    list_queues,
    look_at,
    pause,
    permissions,
    purge,
    resume,
    take_back,
)

__all__ = [
    "ActualQueue",
    "QueuesUnknown",
    "SeenTask",
    "delete",
    "forget_cached",
    "list_cached",
    "list_queues",
    "look_at",
    "pause",
    "permissions",
    "purge",
    "resume",
    "take_back",
]
