"""What a callback asks of its own run while the transaction of its page is open.

Done at once, it would be part of that transaction, whose own last statement would find
the run paused, and roll it back. So it waits until the transaction is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cloudtask.exceptions import CloudTaskError

logger = logging.getLogger("cloudtask")

Request = Callable[[], object]

_noted: ContextVar[tuple[str, list[Request]] | None] = ContextVar(
    "cloudtask_requests", default=None
)


def later(run_id: str, request: Request) -> bool:
    """Note `request` if a transaction of this run's is open here; whether it is."""
    noted = _noted.get()
    if noted is None or noted[0] != run_id:
        return False
    noted[1].append(request)
    return True


@contextmanager
def waiting(run_id: str) -> Iterator[list[Request]]:
    """Do after the block what is asked of the run inside it, however that ends."""
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
