"""Lists the tasks of the project, and names of failed tasks that no task has."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from cloudtask.options import Options
from cloudtask.registry import Definition, is_findable, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task of the project, or a name that failed tasks have and no task."""

    path: str
    failed: int
    options: dict[str, Any]
    queue: str = ""
    is_unknown: bool = False
    is_hidden: bool = False


def known_tasks(failed: dict[str, int]) -> list[KnownTask]:
    """Unknown names first, then the tasks of the project."""
    known = {p: d for p, d in tasks().items() if not p.startswith("cloudtask.")}
    unknown = [
        KnownTask(path=path, failed=number, options={}, is_unknown=True)
        for path, number in sorted(failed.items())
        if path not in tasks()
    ]
    return unknown + [
        KnownTask(
            path=path,
            failed=failed.get(path, 0),
            options=_options(definition),
            queue=definition.options.queue,
            is_hidden=not is_findable(path),
        )
        for path, definition in sorted(known.items())
    ]


HIDDEN = "(hidden)"  # the value of an option that may hold a secret
_HIDDEN = {one.name for one in fields(Options) if not one.repr}


def _options(definition: Definition) -> dict[str, Any]:
    """The options that differ from the defaults, as lists may show them."""
    own, default = definition.options, Options()
    return {
        name: HIDDEN if name in _HIDDEN else value
        for name, value in own.travelling.items()
        if name != "queue" and value != default.travelling.get(name)
    }
