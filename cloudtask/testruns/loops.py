"""Synchronous code on a thread whose event loop waits for it."""

from __future__ import annotations

from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def out_of_loop() -> Iterator[None]:
    """Let asgiref run asynchronous tasks inside the block, also on a loop's thread.

    The loop is blocked until we return, so for what we call no loop runs here; asgiref
    and Django look for one, and would refuse.
    """
    loop = events._get_running_loop()
    if loop is None:
        yield
        return
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(loop)
