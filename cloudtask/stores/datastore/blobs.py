"""Stores bytes of any size in Datastore, whose entities and commits are limited.

A small blob is part of the entity that owns it. A larger one is kept in chunks in the
same entity group, and the owner names them. Chunks that no owner names do not count.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudtask.stores.datastore.access import Access, Path, Row, in_groups

CHUNK_KIND = "CloudtaskChunk"
CHUNK = 990_000  # bytes
# Chunks in a commit: with their owner under 3.5 MiB. The service takes 10 MiB, but
# the emulators take messages of 4 MiB.
A_COMMIT = 3
A_LOOKUP = 4  # chunks; the client receives no answer over 4 MiB
INLINE = 16 * 1024  # bytes that lie in the owner itself
_PARTS = ("name", "size", "digest", "inline")


@dataclass(frozen=True, slots=True)
class Blob:
    """The owner's record of its bytes; `inline` is the bytes if they are few."""

    name: str
    size: int
    digest: str
    inline: bytes | None

    @classmethod
    def of(cls, data: bytes, *, inline: int = INLINE) -> Blob:
        return cls(
            name=uuid.uuid4().hex,
            size=len(data),
            digest=hashlib.sha256(data).hexdigest(),
            inline=data if len(data) <= inline else None,
        )

    @classmethod
    def read(cls, values: Mapping[str, Any], prefix: str = "blob") -> Blob | None:
        """The blob of an owner; None if it has none."""
        if values.get(f"{prefix}_name") is None:
            return None
        return cls(*(values[f"{prefix}_{part}"] for part in _PARTS))

    @property
    def values(self) -> dict[str, Any]:
        return self.named("blob")

    def named(self, prefix: str) -> dict[str, Any]:
        """The properties of an owner; `prefix` tells its blobs apart."""
        return {f"{prefix}_{part}": getattr(self, part) for part in _PARTS}

    def paths(self, owner: Path) -> list[Path]:
        """The paths of the chunks."""
        if self.inline is not None:
            return []
        return [
            (*owner, CHUNK_KIND, f"{self.name}-{index:04d}")
            for index in range(-(-self.size // CHUNK))
        ]

    def is_whole(self, data: bytes) -> bool:
        return len(data) == self.size and (
            hashlib.sha256(data).hexdigest() == self.digest
        )


NO_BLOB = Blob.of(b"")
NOTHING: dict[str, Any] = dict.fromkeys(NO_BLOB.values)


def paths(row: Row | None, prefix: str = "blob") -> list[Path]:
    """The paths of the chunks of the owner `row`."""
    blob = Blob.read(row.values, prefix) if row else None
    return blob.paths(row.path) if row and blob else []


def save(
    access: Access,
    what: str,
    owner: Path,
    blob: Blob,
    data: bytes,
    *,
    saved_at: datetime | None = None,
) -> Sequence[Row]:
    """Write the chunks, but for the last few: these are for the commit that writes the
    owner. `saved_at` is indexed when given, so that chunks without owner are found."""
    rows = [
        Row(
            path,
            {"data": data[i * CHUNK : (i + 1) * CHUNK], "saved_at": saved_at},
            ("saved_at",) if saved_at else (),
        )
        for i, path in enumerate(blob.paths(owner))
    ]
    groups = list(in_groups(rows, A_COMMIT)) or [()]
    for group in groups[:-1]:
        access.put(what, group)
    return groups[-1]


def load(access: Access, what: str, row: Row, prefix: str = "blob") -> bytes | None:
    """The bytes of the owner `row`; None if they are damaged or were replaced."""
    blob = Blob.read(row.values, prefix)
    if blob is None:
        return b""
    if blob.inline is not None:
        return blob.inline if blob.is_whole(blob.inline) else None
    parts: list[bytes] = []
    for some in in_groups(blob.paths(row.path), A_LOOKUP):
        for chunk in access.get(what, *some):
            if chunk is None:
                return None
            parts.append(chunk.values["data"])
    data = b"".join(parts)
    return data if blob.is_whole(data) else None
