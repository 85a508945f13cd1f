"""Cancels a call that waits.

A crash leaves the following:

| a crash comes | what it leaves | what follows |
|---|---|---|
| before the commit of the cancel | the call | it runs |
| after the commit | the mark, no outbox row | a delivery finds the mark; no call |
| after the task was deleted | the mark | nothing |

The mark decides. Deleting the outbox row and the task only saves a delivery. A relay
that has read the row before sends the task, whose delivery finds the mark. A `Retry`
has another name, but the same id, and so the same mark. A mark in a transaction that is
rolled back was never there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from django.db import transaction

from cloudtask import failpoints
from cloudtask.delivering import executions, results
from cloudtask.message import Enqueued
from cloudtask.sending import on_commit, uniqueness
from cloudtask.sending.relay import forget_rows
from cloudtask.stores import store
from cloudtask.stores.results import ResultState
from cloudtask.stores.transactions import (
    in_transaction,
    is_relational,
    is_undecided,
    translated,
)
from cloudtask.transports import transport

logger = logging.getLogger("cloudtask")


class Cancellation(Enum):
    """What `cancel()` has reached."""

    PREVENTED = "prevented"  # the call does not begin, or its effects are undone
    TOO_LATE = "too late"  # it has taken effect, or is kept as a failed task
    REQUESTED = "requested"  # it may begin, or runs; it is not tried again if it can be


@dataclass(frozen=True, slots=True)
class Cancellable:
    """A call, and what its options say about a cancel of it."""

    receipt: Enqueued
    database: str = "default"
    is_atomic: bool = False
    is_marked: bool = False  # the option cancellable
    keeps_result: bool = False


def cancel(call: Cancellable) -> Cancellation:
    """Keep a call from beginning, if that is possible; see `Cancellation`.

    The cancel commits with the open transaction. Raises EnqueueUnavailable when a store
    can't be reached: nothing was cancelled then.
    """
    alias, key = call.database, call.receipt.id
    if not is_relational(alias):
        found = _marked(call)
        _delete_task(call.receipt)
        return found
    waits = in_transaction(alias) or is_undecided(alias)
    with translated(f"Cancelling {key}", alias), transaction.atomic(using=alias):
        found = _marked(call)
        if found is not Cancellation.TOO_LATE:
            if on_commit.withdraw(key, alias) and waits:
                found = Cancellation.PREVENTED
            forget_rows(alias, [key])
            uniqueness.free(key, alias)
        failpoints.reached("cancel.before_commit")
        if waits:
            transaction.on_commit(_deleting(found, call.receipt), using=alias)
    failpoints.reached("cancel.committed")
    if not waits:
        _deleting(found, call.receipt)()
    return found


def _marked(call: Cancellable) -> Cancellation:
    """Write the mark that a delivery looks for, if it looks for one."""
    key = call.receipt.id
    if call.is_atomic:
        is_ours = executions.cancel(key, call.database)
        return Cancellation.PREVENTED if is_ours else Cancellation.TOO_LATE
    if _has_ended(call):
        return Cancellation.TOO_LATE
    if not call.is_marked:
        return Cancellation.REQUESTED
    if store().cancel_call(key):
        return Cancellation.REQUESTED
    return Cancellation.PREVENTED


def _has_ended(call: Cancellable) -> bool:
    key = call.receipt.id
    if call.keeps_result:
        found = results.find(key)
        if found is not None and found.state is ResultState.SUCCEEDED:
            return True
    return store().load_failed(key) is not None


def is_cancelled(call: Cancellable) -> bool:
    """Whether a delivery of the call finds that it was cancelled."""
    key = call.receipt.id
    if call.is_atomic:
        return executions.is_cancelled(key, call.database)
    return call.is_marked and store().is_cancelled(key)


def _deleting(found: Cancellation, receipt: Enqueued) -> Callable[[], None]:
    def delete() -> None:
        if found is not Cancellation.TOO_LATE:
            _delete_task(receipt)

    return delete


def _delete_task(receipt: Enqueued) -> None:
    """Delete the task. Never raises: the mark decides."""
    try:
        transport().delete(receipt.queue, receipt.name)
    except Exception as error:  # noqa: BLE001  it only saves a delivery
        logger.warning("The task of call %s was not deleted: %s", receipt.id, error)
