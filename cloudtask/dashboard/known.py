"""Lists the tasks of the project, and names in calls that no task has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cloudtask.options import Options
from cloudtask.registry import Definition, is_findable, may_have, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task of the project, or a name that calls have and no task. `failed` and
    `waiting` are numbers of its calls."""

    path: str
    failed: int
    waiting: int = 0
    options: dict[str, Any]
    queue: str = ""
    is_unknown: bool = False
    is_hidden: bool = False


def known_tasks(
    failed: Mapping[str, int], waiting: Mapping[str, int] | None = None
) -> list[KnownTask]:
    """Unknown names first, then the tasks of the project. `failed` and `waiting` are
    numbers of calls by name."""
    waiting = waiting or {}
    unknown = [
        KnownTask(
            path=path,
            failed=failed.get(path, 0),
            waiting=waiting.get(path, 0),
            options={},
            is_unknown=True,
        )
        for path in sorted({*failed, *waiting})
        if _is_own(path) and not may_have(path)
    ]
    known = {path: made for path, made in tasks().items() if _is_own(path)}
    return unknown + [
        KnownTask(
            path=path,
            failed=failed.get(path, 0),
            waiting=waiting.get(path, 0),
            options=_options(definition),
            queue=definition.options.queue,
            is_hidden=not is_findable(path),
        )
        for path, definition in sorted(known.items())
    ]


def _is_own(path: str) -> bool:
    """Whether it is a name of the project. A step of the library is registered when its
    room is first used."""
    return not path.startswith("cloudtask.")


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
