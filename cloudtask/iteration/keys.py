"""Keys as text, which is how shards and failed rows have them."""

from __future__ import annotations

from typing import Any

from cloudtask import codec


def key_of(text: str | None) -> Any:
    """A key from its text."""
    return None if text is None else codec.loads(text.encode())


def text_of(key: Any) -> str | None:
    """A key as text."""
    return None if key is None else codec.dumps(key).decode()
