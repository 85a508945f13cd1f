"""Schedules: when the calls of a task are due, and the tick that enqueues them."""

from __future__ import annotations

from cloudtask.schedules.declared import Declared, Schedule, declare, declared

__all__ = ["Declared", "Schedule", "declare", "declared"]
