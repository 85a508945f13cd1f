"""Pages of a list: some items, and the mark at which the next page begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 10_001  # what a count stops at: one more than people are shown

_MARK = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?([+-]\d\d(:?\d\d)?)?)"
    r"\|(?P<key>[\w.:-]{1,100})"
)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items in their order. `next` is the mark of the following page, None after the
    last one. Marks are opaque, and those of one store mean nothing to another."""

    items: tuple[T, ...]
    next: str | None = None


def mark_of(time: str, key: str) -> str:
    """The mark of the item with this time, as its store writes it, and this key."""
    return f"{time}|{key}"


def is_mark(mark: str) -> bool:
    try:
        read_mark(mark)
    except ValueError:
        return False
    return True


def read_mark(mark: str) -> tuple[str, str]:
    """Time and key of a mark; raises ValueError for anything else.

    A mark comes back in a URL, where people can change it.
    """
    found = _MARK.fullmatch(mark)
    if found is None:
        raise ValueError(f"{mark[:100]!r} is not a mark of a page.")
    datetime.fromisoformat(found["time"])
    return found["time"], found["key"]
