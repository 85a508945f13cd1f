"""Cancels a call, a chain or a group that waits.

A crash leaves the following:

| a crash comes | what it leaves | what follows |
|---|---|---|
| before the commit of the cancel | the call | it runs |
| after the commit | the mark, no outbox row | a delivery finds the mark; no call |
| after the task was deleted | the mark | nothing |

The mark decides. Deleting the outbox row and the task only saves a delivery. A relay
that has read the row before sends the task, whose delivery finds the mark. A `Retry`
has another name, but the same id, and so the same mark. A mark in a transaction that is
rolled back was never there. `chains.cancelled` has the states of chains and groups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from django.db import transaction

from cloudtask import failpoints
from cloudtask.delivering import executions, results
from cloudtask.message import Enqueued
from cloudtask.sending import on_commit, uniqueness
from cloudtask.sending.table import forget_rows
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


class Cancellable(Protocol):
    """Anything that waits: a call, a chain or a group. `database` is its outbox's."""

    @property
    def receipt(self) -> Enqueued: ...
    @property
    def database(self) -> str: ...
    @property
    def is_step(self) -> bool: ...
    def mark(self) -> Cancellation:
        """Write the mark that a delivery looks for, if it looks for one."""
        ...

    def withdraw(self) -> bool:
        """Delete its outbox rows; whether the open transaction has written them."""
        ...

    def is_cancelled(self) -> bool:
        """Whether a delivery finds that it was cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class CancellableCall:
    """A call, and what its options say about a cancel of it.

    The task of a step of a chain stays: its delivery tells the receipts around it that
    nothing follows.
    """

    receipt: Enqueued
    database: str = "default"
    is_atomic: bool = False
    is_marked: bool = False  # the option cancellable
    keeps_result: bool = False
    is_step: bool = False

    def mark(self) -> Cancellation:
        key = self.receipt.id
        if self.is_atomic:
            return _exactly(key, self.database)
        if self._has_ended():
            return Cancellation.TOO_LATE
        if not self.is_marked:
            return Cancellation.REQUESTED
        has_begun = store().cancel_call(key)
        return Cancellation.REQUESTED if has_begun else Cancellation.PREVENTED

    def _has_ended(self) -> bool:
        key = self.receipt.id
        if self.keeps_result and _has_succeeded(key):
            return True
        return store().load_failed(key) is not None

    def withdraw(self) -> bool:
        key, alias = self.receipt.id, self.database
        if self.is_step:
            return False
        own = on_commit.withdraw(lambda message: message.key == key, alias)
        forget_rows(alias, [key])
        uniqueness.free(key, alias)
        return bool(own)

    def is_cancelled(self) -> bool:
        key = self.receipt.id
        if self.is_atomic:
            return executions.is_cancelled(key, self.database)
        return self.is_marked and store().is_cancelled(key)


@dataclass(frozen=True, slots=True)
class CancellableChain:
    """A chain or a group; its receipt has the name and queue of the first task.

    `is_exact` is as in its messages. `kept_in` is the database of an atomic last step.
    """

    receipt: Enqueued
    database: str = "default"
    is_exact: bool = False
    kept_in: str | None = None
    keeps_result: bool = False
    is_step: ClassVar[bool] = False

    def mark(self) -> Cancellation:
        key = self.receipt.id
        if self.kept_in is not None:
            with transaction.atomic(using=self.kept_in):
                found = _exactly(key, self.kept_in)
            if found is Cancellation.TOO_LATE:
                return found
        elif self.keeps_result and _has_succeeded(key):
            return Cancellation.TOO_LATE
        has_begun = store().cancel_call(key, may_have_begun=not self.is_exact)
        is_prevented = self.is_exact and not has_begun
        return Cancellation.PREVENTED if is_prevented else Cancellation.REQUESTED

    def withdraw(self) -> bool:
        key, alias = self.receipt.id, self.database
        own = on_commit.withdraw(lambda message: message.whole == key, alias)
        # The rows of other first members are sent, and their deliveries find the mark.
        forget_rows(alias, [*own, self.receipt.name])
        # Rows of later steps may be its own: of a step that cancels its own chain.
        return self.receipt.name in own

    def is_cancelled(self) -> bool:
        return store().is_cancelled(self.receipt.id)


def _exactly(key: str, alias: str) -> Cancellation:
    is_ours = executions.cancel(key, alias)
    return Cancellation.PREVENTED if is_ours else Cancellation.TOO_LATE


def _has_succeeded(key: str) -> bool:
    found = results.find(key)
    return found is not None and found.state is ResultState.SUCCEEDED


def cancel(waiting: Cancellable) -> Cancellation:
    """Keep a call from beginning, if that is possible; see `Cancellation`.

    The cancel commits with the open transaction. Raises EnqueueUnavailable when a store
    can't be reached: nothing was cancelled then.
    """
    alias, receipt = waiting.database, waiting.receipt
    if not is_relational(alias):
        found = waiting.mark()
        _deleting(found, waiting)()
        return found
    waits = in_transaction(alias) or is_undecided(alias)
    with translated(f"Cancelling {receipt.id}", alias), transaction.atomic(using=alias):
        found = waiting.mark()
        if found is not Cancellation.TOO_LATE and waiting.withdraw() and waits:
            found = Cancellation.PREVENTED
        failpoints.reached("cancel.before_commit")
        if waits:
            transaction.on_commit(_deleting(found, waiting), using=alias)
    failpoints.reached("cancel.committed")
    if not waits:
        _deleting(found, waiting)()
    return found


def _deleting(found: Cancellation, waiting: Cancellable) -> Callable[[], None]:
    def delete() -> None:
        if found is not Cancellation.TOO_LATE and not waiting.is_step:
            _delete_task(waiting.receipt)

    return delete


def _delete_task(receipt: Enqueued) -> None:
    """Delete the task. Never raises: the mark decides."""
    try:
        transport().delete(receipt.queue, receipt.name)
    except Exception as error:  # noqa: BLE001  it only saves a delivery
        logger.warning("The task of call %s was not deleted: %s", receipt.id, error)
