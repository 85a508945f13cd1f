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

A single step that does not begin ends its chain, or its place in a group. The cancel
tells them so after its commit. The task stays, and its delivery tells them again:

| a crash comes | what it leaves | what follows |
|---|---|---|
| before the commit | the step | it runs |
| after the commit | the mark | the delivery of the step tells, once it is due |
| after the group has its failure | the failure | that delivery decides about `then` |
| after `then` was sent | `then` in the queue | the same name again at that delivery |
| after the group is finished | the mark | that delivery finds the group done |

Both may tell at the same time. The group keeps one failure in the place of the step,
and `then` has one name. A cancel that is repeated tells again, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import ClassVar, Protocol

from django.db import transaction

from cloudtask import failpoints
from cloudtask.delivering import executions, results, telling
from cloudtask.message import Enqueued, Message
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
    """The effect of a `cancel()`."""

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
    def step(self) -> Message | None: ...
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

    `step` is its message, if it is one of a chain or a group.
    """

    receipt: Enqueued
    database: str = "default"
    is_atomic: bool = False
    is_marked: bool = False  # the option cancellable
    keeps_result: bool = False
    step: Message | None = None

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
        if self.step is not None:
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
    step: ClassVar[Message | None] = None

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
        _following(found, waiting)()
        return found
    waits = in_transaction(alias) or is_undecided(alias)
    with translated(f"Cancelling {receipt.id}", alias), transaction.atomic(using=alias):
        found = waiting.mark()
        if found is not Cancellation.TOO_LATE and waiting.withdraw() and waits:
            found = Cancellation.PREVENTED
        failpoints.reached("cancel.before_commit")
        if waits:
            transaction.on_commit(_following(found, waiting), using=alias)
    failpoints.reached("cancel.committed")
    if not waits:
        _following(found, waiting)()
    return found


def _following(found: Cancellation, waiting: Cancellable) -> Callable[[], None]:
    """The steps after the commit of a cancel."""

    def follow() -> None:
        if found is Cancellation.TOO_LATE:
            return
        if waiting.step is None:
            _delete_task(waiting.receipt)
        elif found is Cancellation.PREVENTED:
            _tell(waiting.step)

    return follow


def _tell(step: Message) -> None:
    """Tell the chain or group of a step. Never raises: a delivery tells it as well.

    A transaction that is open on the store's own database may still undo the mark, and
    does not see all members that have ended. It commits first.
    """
    alias = store().database
    try:
        if alias is not None and _is_open(alias):
            transaction.on_commit(partial(_tell, step), using=alias)
        else:
            telling.tell_cancelled(step)
    except Exception as error:  # noqa: BLE001  the cancel has committed
        logger.warning(
            "The chain or group of %s is told of the cancel when that is due: %s",
            step.id,
            error,
        )


def _is_open(alias: str) -> bool:
    return is_relational(alias) and (in_transaction(alias) or is_undecided(alias))


def _delete_task(receipt: Enqueued) -> None:
    """Delete the task. Never raises: the mark decides."""
    try:
        transport().delete(receipt.queue, receipt.name)
    except Exception as error:  # noqa: BLE001  it only saves a delivery
        logger.warning("The task of call %s was not deleted: %s", receipt.id, error)
