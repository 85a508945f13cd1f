"""Compares the queues that a project declares with those that Cloud Tasks has."""

from __future__ import annotations

from cloudtask.queues.actual import (
    ActualQueue,
    QueuesUnknown,
    forget_cached,
    list_cached,
    list_queues,
    pause,
    purge,
    resume,
)

__all__ = [
    "ActualQueue",
    "QueuesUnknown",
    "forget_cached",
    "list_cached",
    "list_queues",
    "pause",
    "purge",
    "resume",
]
