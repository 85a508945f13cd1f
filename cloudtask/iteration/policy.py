"""The keywords of `iterate()` and `map()`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from cloudtask.iteration.description import Atomic, OnError


class MapOptions(TypedDict, total=False):
    """What `.map` takes beside the items and `batch_size`; see `Deferrable.iterate`."""

    finalize: Callable[..., Any] | None
    on_failure: Callable[..., Any] | None
    args: Sequence[Any]
    kwargs: dict[str, Any] | None
    shards: int | None
    atomic: Atomic | None
    on_error: OnError
    max_failures: float | None
    keep: bool
    transactional: bool | None


class IterateOptions(MapOptions, total=False):
    """What `.iterate` takes beside those and the queryset; see `Deferrable.iterate`."""

    include_new: bool
    margin: timedelta | float
