"""Types the keywords of `@task` and `.using`, for type checkers.

Type checkers can't read the list in `Options`. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict

from cloudtask.options.facts import Backoff, BackoffFunction


class TaskOptions(TypedDict, total=False):
    """The options of `@task`; see docs/reference/options.md."""

    queue: str
    small: bool
    unique: bool | Callable[..., Any]
    max_attempts: int | None
    backoff: Backoff | BackoffFunction | None
    timeout: timedelta | float | None
    atomic: bool
    transactional: bool | None
    database: str
    keep_result: timedelta | float | None
    cancellable: bool
    wipe_related_caches: bool
    service: str | None
    version: str | None
    instance: str | None
    url: str | None
    headers: Mapping[str, str] | None


class UsingOptions(TaskOptions, total=False):
    """The options of `.using`: those of `@task`, and those of a single call."""

    countdown: timedelta | float | None
    eta: datetime | None
    name: str | None
