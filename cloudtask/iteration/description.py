"""What a run walks and how: a frozen value, sealed in the run's row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from cloudtask import clock, codec, envelope
from cloudtask.exceptions import PayloadTooLarge
from cloudtask.iteration.sources import ListSource, QuerySetSource, Source
from cloudtask.quotas import PAYLOAD

OnError = Literal["retry", "skip", "pause", "abort"]
Atomic = Literal["page", "row"]
MARGIN = 10.0  # seconds that are left before the dispatch deadline, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """`queryset` or `items` is walked. What a version may be unable to read, for it
    names models or functions, is encoded by itself: the rest stays readable."""

    queryset: bytes | None = None
    items: bytes | None = None
    arguments: bytes
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

    def sealed(self) -> bytes:
        """The bytes for the run's row; raises PayloadTooLarge."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        packed = codec.dumps(values, root="iterate")
        if len(packed) > PAYLOAD:
            raise PayloadTooLarge(
                f"What the iteration walks takes {len(packed):,} bytes, more than "
                f"{PAYLOAD:,}. Put the items into a table and iterate() over that, or "
                "map() ids of what is large."
            )
        return envelope.seal_value(packed)

    def source(self) -> Source:
        """What is walked; raises PayloadError when this version can't read it."""
        if self.queryset is not None:
            return QuerySetSource(codec.loads(self.queryset))
        return ListSource(self.items or b"[]")

    def call_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """args and kwargs of callback and finalize; raises PayloadError."""
        return codec.loads_call(self.arguments)


def unsealed(data: bytes) -> Description:
    """The reverse of `sealed`; raises PayloadError."""
    values = codec.loads(envelope.unseal_value(data, now=clock.now()))
    known = {f.name for f in fields(Description)}
    return Description(**{name: values[name] for name in known if name in values})
