"""The keywords of `@task` and `.using`, for type checkers.

The names are those of `message.Options`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict

from cloudtask.options import Backoff, BackoffFunction, nearest


class TaskOptions(TypedDict, total=False):
    """What `@task` takes; see docs/reference/options.md."""

    queue: str
    small: bool
    unique: bool | Callable[..., Any]
    max_attempts: int | None
    backoff: Backoff | BackoffFunction | None
    timeout: timedelta | float | None
    atomic: bool
    transactional: bool | None
    database: str
    wipe_related_caches: bool
    service: str | None
    version: str | None
    instance: str | None
    url: str | None
    headers: Mapping[str, str] | None


class UsingOptions(TaskOptions, total=False):
    """What `.using` takes: the options of `@task`, and those of a single call."""

    countdown: timedelta | float | None
    eta: datetime | None
    name: str | None


def check_known(path: str, verb: str, given: Mapping[str, Any], kind: Any) -> None:
    """Raise TypeError, with the nearest known one, for a keyword that `kind` lacks."""
    known = kind.__required_keys__ | kind.__optional_keys__
    for name in given:
        if name not in known:
            raise TypeError(
                f"{path}.{verb}() takes no {name!r}; {nearest(name, known)}"
            )
