"""Makes the keys that sign what travels and what rests, from SECRET_KEY."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

ID_SIZE = 4  # bytes
_BLOCK = 64  # bytes of a block of SHA-256


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key, as the two states of SHA-256 with which each HMAC begins.

    `hmac.digest` would compute both for each message, which takes twice as long.
    """

    id: bytes
    text_id: str
    inner: Any
    outer: Any

    def sign(self, data: bytes) -> bytes:
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        mac: bytes = outer.digest()
        return mac


@lru_cache(maxsize=16)
def key_of(secret: str | bytes) -> Key:
    """The signing key that belongs to a SECRET_KEY."""
    raw = secret.encode() if isinstance(secret, str) else secret
    key = hmac.digest(raw, b"cloudtask.envelope.v1", "sha256")
    key_id = hashlib.sha256(key).digest()[:ID_SIZE]
    block = key.ljust(_BLOCK, b"\0")
    return Key(
        id=key_id,
        text_id=key_id.hex(),
        inner=hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
        outer=hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
    )
