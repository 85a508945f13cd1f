"""Retries the calls that a test run kept as failed."""

from __future__ import annotations

from cloudtask.delivering import failed
from cloudtask.stores import store
from tests.workflows import tasks


def retry_failed(*, mended: bool = True) -> None:
    """Retry each of them, after what was broken is mended.

    Not by `cloudtask_failed retry --all`: in virtual time they may have failed a moment
    from now, and it takes those of the past.
    """
    if mended:
        tasks.broken.clear()
    for digit in "0123456789abcdef":
        for key in store().find_failed(digit, limit=100):
            failed.retry(key)
