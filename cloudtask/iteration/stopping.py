"""Requests to stop a leg: by SIGTERM, and by the callback itself."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cloudtask.exceptions import CloudTaskError

logger = logging.getLogger("cloudtask")

# SIGTERM


_asked = threading.Event()


def asked() -> bool:
    """Whether this process is about to end: SIGTERM has come."""
    return _asked.is_set()


def hand_over_on_sigterm() -> None:
    """Notice SIGTERM from now on, and pass it to the handler that was there.

    Servers finish their requests after SIGTERM, but a shard can take minutes. Python
    lets only the main thread do this; elsewhere this does nothing. Servers that run
    requests in threads call it in a hook of their own: see docs/howto/iterate.md.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    # None: a handler that was not installed from Python can't be passed on to.
    if before is None or getattr(before, "is_of_cloudtask", False):
        return

    def noticed(number: int, frame: Any) -> None:
        _asked.set()
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    noticed.is_of_cloudtask = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, noticed)


# The callback


Request = Callable[[], object]

_noted: ContextVar[tuple[str, list[Request]] | None] = ContextVar(
    "cloudtask_requests", default=None
)
_leg: ContextVar[tuple[str, Callable[[], None]] | None] = ContextVar(
    "cloudtask_leg", default=None
)


def ask(run_id: str, request: Request) -> bool:
    """Do what a callback, or anyone else, asks of a run; False if it is done later.

    Inside the transaction of a page of that run it waits until the transaction is over.
    At once, it would be a part of that transaction, whose last statement would find the
    run changed and roll it back. Any other leg of the run in this context looks at the
    run before its next row.
    """
    noted, leg = _noted.get(), _leg.get()
    if noted is not None and noted[0] == run_id:
        noted[1].append(request)
        return False
    request()
    if leg is not None and leg[0] == run_id:
        leg[1]()
    return True


@contextmanager
def walking(run_id: str, look_again: Callable[[], None]) -> Iterator[None]:
    """Have `look_again` called when the run is changed inside the block."""
    token = _leg.set((run_id, look_again))
    try:
        yield
    finally:
        _leg.reset(token)


@contextmanager
def waiting(run_id: str) -> Iterator[list[Request]]:
    """Do what is asked of the run inside the block after it, however it ends."""
    requests: list[Request] = []
    token = _noted.set((run_id, requests))
    try:
        yield requests
    finally:
        _noted.reset(token)
        for request in requests:
            _do(run_id, request)


def _do(run_id: str, request: Request) -> None:
    try:
        request()
    except CloudTaskError as error:
        logger.warning("A callback's request to iteration %s: %s", run_id, error)
