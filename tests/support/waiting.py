"""Waiting for a condition, as long as a very busy machine may take to meet it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds until a test gives up. A test that passes never waits so long: the number only
# decides how soon a broken one ends.
PATIENCE = 150.0
PAUSE = 0.02  # seconds between two looks


def wait_until(
    look: Callable[[], T | None], what: str, tell: Callable[[], str] = str
) -> T:
    """What `look` returns once that is true; fails at the deadline, with `tell()`."""
    give_up = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > give_up:
            raise AssertionError(f"{what}: not within {PATIENCE:g} s. {tell()}")
        time.sleep(PAUSE)
    return found
