"""Defines a task of `django.tasks` that also takes the options of this library."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

from cloudtask.backend.backend_options import OF_TASK
from cloudtask.backend.library import Task
from cloudtask.options import nearest

# `name` is a property of every task of `django.tasks`: the name of its function.
_NAMES = ("name_of_call", *OF_TASK)
_Fields: Any = make_dataclass(
    "_Fields",
    [(name, Any, None) for name in _NAMES],
    bases=(Task,),
    frozen=True,
    slots=True,
    kw_only=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudTask(_Fields):  # type: ignore[misc]
    """A task of `django.tasks` with the options of this library.

    `using()` takes them. The decorator takes them where Django hands them on: from 6.1,
    and in the backport. None leaves an option to the backend's OPTIONS.
    """

    def using(self, **changes: Any) -> CloudTask:
        """A task with other fields; raises TypeError for an unknown one.

        `name` is the Cloud Tasks id of a single call: a second call of it is refused.
        """
        if "name" in changes:
            changes["name_of_call"] = changes.pop("name")
        known = [field.name for field in fields(self) if field.name != "func"]
        for name in changes:
            if name not in known:
                raise TypeError(f"Unknown option {name!r}; {nearest(name, known)}")
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **given)

    @property
    def task_options(self) -> dict[str, Any]:
        """The options of this library that this task has itself."""
        own = {name: getattr(self, name) for name in OF_TASK}
        own["name"] = self.name_of_call
        return {name: value for name, value in own.items() if value is not None}
