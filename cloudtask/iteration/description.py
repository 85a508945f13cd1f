"""What a run walks and how: a frozen value, sealed in the run's row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from asgiref.sync import async_to_sync, iscoroutinefunction

from cloudtask import clock, codec, envelope
from cloudtask.iteration.sources import ListSource, QuerySetSource, Source

OnError = Literal["retry", "skip", "pause", "abort"]
Atomic = Literal["page", "row"]
MARGIN = 10.0  # seconds that are left before the dispatch deadline, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """`queryset` or `items` is walked. `queryset`, `finalize` and `on_failure` are
    encoded: a version that can't read one of them can read the rest."""

    queryset: bytes | None = None
    items: list[Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any]
    finalize: bytes | None = None
    on_failure: bytes | None = None
    shards: int | None = None
    batch_size: int | None = None
    atomic: Atomic | None = None
    on_error: OnError = "retry"
    max_failures: float | None = None
    margin: float = MARGIN
    include_new: bool = False
    database: str = "default"

    def sealed(self, *, wipe_related_caches: bool = True) -> bytes:
        """The bytes for the run's row; raises UnsupportedValue."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        packed = codec.dumps(
            values, wipe_related_caches=wipe_related_caches, root="iterate"
        )
        return envelope.seal_value(packed)

    def source(self) -> Source:
        """What is walked; raises PayloadError when this version can't read it."""
        if self.queryset is not None:
            return QuerySetSource(codec.loads(self.queryset))
        return ListSource(self.items or [])


def unsealed(data: bytes) -> Description:
    """The reverse of `sealed`; raises PayloadError, also for a queryset that the
    running version can't read."""
    values = codec.loads(envelope.unseal_value(data, now=clock.now()))
    return Description(**values)


def called(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, or what waits for it when it is asynchronous."""
    return async_to_sync(function) if iscoroutinefunction(function) else function
