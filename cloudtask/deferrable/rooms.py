"""The rooms that the verbs of a task lead to, imported when a verb is first used.

A module that declares tasks loads none of them: they take most of the time of an
import, and many a process never calls a verb.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudtask import iteration, receipts, runtime, workflows

__all__ = ["iteration", "receipts", "runtime", "workflows"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloudtask import iteration, receipts, runtime, workflows

    found = (iteration, receipts, runtime, workflows)
    globals().update(zip(__all__, found, strict=True))
    room: ModuleType = globals()[name]
    return room
