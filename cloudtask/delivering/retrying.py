"""Retries what has failed in a chain or a group, however deep."""

from __future__ import annotations

import logging

from cloudtask.chains.failure import failure_of
from cloudtask.chains.rest import id_of
from cloudtask.delivering import failed
from cloudtask.exceptions import BadSignature
from cloudtask.stores import store

logger = logging.getLogger("cloudtask")

MOST = 100  # failed tasks of one call: each retry that fails again is another one


def retry_failures(key: str, places: int) -> int:
    """Enqueue the failed tasks of a call, or of a chain with so many places, again.

    Returns their number. Raises EnqueueError for the first that the queue refuses.
    """
    ids = [key]
    for place in range(places):
        ids += (id_of(key, place), id_of(key, "pass", place))
    return sum(_retried(one) + _retried_members(one) for one in ids)


def _retried(key: str) -> int:
    found = store().find_failed(key, limit=MOST)
    for one in found:
        failed.retry(one)
    return len(found)


def _retried_members(group: str) -> int:
    """The same of the members of a group, and of the groups inside them."""
    count = 0
    for member in store().load_failed_members(group):
        try:
            _, key, inner = failure_of(group, member)
        except BadSignature as error:
            logger.error("A failed member can't be retried: %s", error)
            continue
        if inner:
            count += _retried_members(inner)
        elif key and store().load_failed(key) is not None:
            failed.retry(key)
            count += 1
    return count
