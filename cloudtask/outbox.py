"""Messages that wait for, or survived, a commit.

A row is WAITING until it is sent and deleted, or PARKED when sending it again can't
help. `due_at` is when a relay may take it: a relay that takes it moves `due_at` ahead,
so that one that dies gives it back by itself. Sending twice is safe, since the name
derives from the id.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from cloudtask import conf, envelope, failpoints
from cloudtask.exceptions import (
    CloudTaskError,
    DuplicateTask,
    EnqueueError,
    EnqueueUnavailable,
    PayloadError,
    QueueNotFound,
)
from cloudtask.message import Message
from cloudtask.transports import transport

if TYPE_CHECKING:
    from cloudtask.models import OutboxMessage

logger = logging.getLogger("cloudtask")

HEAD_START = timedelta(seconds=15)  # for the process that made the row to send it
LEASE = timedelta(seconds=120)  # for a relay to send what it has taken
BATCH = 100  # rows that a relay takes at once
PARK_AFTER = 8  # refusals that may pass, such as a queue just created
PIGGYBACK_EVERY = 30.0  # seconds between two looks of one process at its outbox
LONGEST_PAUSE = 600  # seconds between two tries of a row


def send(messages: Sequence[Message]) -> None:
    """Hand `messages` to the transport; raises the first EnqueueError.

    Its `failures` maps places in `messages` to errors. A `unique` message whose name is
    taken counts as sent: one like it waits.
    """
    failpoints.reached("enqueue.before_send")
    _send(messages)
    failpoints.reached("enqueue.after_send")


def _send(messages: Sequence[Message]) -> None:
    if len(messages) == 1:
        try:
            transport().send(messages[0])
        except DuplicateTask:
            if messages[0].unique is None:
                raise
        return
    errors = transport().send_many(messages)
    failures = {
        index: error
        for index, error in enumerate(errors)
        if error is not None
        and not (messages[index].unique and isinstance(error, DuplicateTask))
    }
    if failures:
        raise _summary(failures, len(messages))


def _summary(failures: dict[int, EnqueueError], total: int) -> EnqueueError:
    first = next(iter(failures.values()))
    error = type(first)(f"{len(failures)} of {total} calls were not enqueued: {first}")
    error.failures = failures
    error.__cause__ = first
    return error


class AfterCommit:
    """The on-commit entry of some messages: sends them once, however often called."""

    def __init__(self, messages: Sequence[Message], alias: str) -> None:
        self.messages = tuple(messages)
        self.alias = alias

    def __call__(self) -> None:
        messages, self.messages = self.messages, ()
        if messages:
            self.leave(messages)

    def leave(self, messages: Sequence[Message]) -> None:
        """Send without a row: what fails raises, after the commit."""
        send(messages)


class RelayAfterCommit(AfterCommit):
    """Sends messages that have rows: what fails is left to a relay."""

    def leave(self, messages: Sequence[Message]) -> None:
        failpoints.reached("outbox.committed")
        try:
            errors = transport().send_many(messages)
        except CloudTaskError:
            logger.exception("The messages of a commit were not sent; a relay will.")
            return
        failpoints.reached("relay.after_send")
        sent = [m.key for m, error in zip(messages, errors, strict=True) if not error]
        for error in filter(None, errors):
            logger.warning("A message stays in the outbox: %s", error)
        _rows(self.alias).filter(key__in=sent).delete()
        piggyback.ride(self.alias)


def send_on_commit(messages: Sequence[Message], alias: str) -> None:
    """Send when the transaction on `alias` commits; lost if the process dies then."""
    transaction.on_commit(AfterCommit(messages, alias), using=alias)


def add(messages: Sequence[Message], alias: str) -> None:
    """Put `messages` into the outbox of `alias`, in its open transaction, and send them
    after the commit; without a transaction, in one of their own.

    Raises EnqueueUnavailable when the database can't be reached.
    """
    marked = [replace(message, outboxed=True) for message in messages]
    try:
        with transaction.atomic(using=alias, savepoint=False):
            _rows(alias).bulk_create([_row(message) for message in marked])
            failpoints.reached("outbox.added")
            transaction.on_commit(RelayAfterCommit(marked, alias), using=alias)
    except (OperationalError, InterfaceError) as error:
        raise EnqueueUnavailable(
            f"Task {marked[0].task} ({marked[0].id}) was not enqueued on queue "
            f"{marked[0].queue!r}: the outbox in database {alias!r} failed: {error}"
        ) from error


def _row(message: Message) -> OutboxMessage:
    from cloudtask.models import OutboxMessage

    return OutboxMessage(
        key=message.key,
        task=message.task,
        queue=message.queue,
        envelope=envelope.seal(message),
        due_at=Now() + HEAD_START,
    )


def _rows(alias: str) -> QuerySet[OutboxMessage]:
    from cloudtask.models import OutboxMessage

    return OutboxMessage.objects.using(alias)


def forget(message: Message) -> None:
    """Delete the row of a message that has arrived, should it still be there."""
    if message.outboxed:
        _rows(message.options.database).filter(key=message.key).delete()


class _Piggyback:
    """A small relay beside an enqueue, now and then: what a dead process left behind is
    sent even where no relay is scheduled."""

    def __init__(self) -> None:
        self.next: dict[str, float] = {}

    def ride(self, alias: str) -> None:
        now = time.monotonic()
        if conf.in_tests() or now < self.next.setdefault(alias, now + PIGGYBACK_EVERY):
            return
        self.next[alias] = now + PIGGYBACK_EVERY
        try:
            relay(alias, limit=20, seconds=2.0)
        except DatabaseError:
            logger.exception("The outbox of %r was not relayed.", alias)


piggyback = _Piggyback()


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What one relay did: rows sent, put off until later, and parked."""

    sent: int = 0
    postponed: int = 0
    parked: int = 0

    def __add__(self, other: RelayReport) -> RelayReport:
        return RelayReport(
            self.sent + other.sent,
            self.postponed + other.postponed,
            self.parked + other.parked,
        )


def relay(
    alias: str = "default", *, limit: int = 1000, seconds: float = 60.0
) -> RelayReport:
    """Send what is due in the outbox of `alias`, oldest first.

    Takes `limit` rows at most, and no more after `seconds`. Any number of relays may
    run at once.
    """
    report = RelayReport()
    stop = time.monotonic() + seconds
    while limit > 0 and time.monotonic() < stop:
        rows = _claim(alias, min(limit, BATCH))
        if not rows:
            break
        failpoints.reached("relay.claimed")
        limit -= len(rows)
        report += _send_rows(alias, rows)
    return report


def aliases() -> list[str]:
    """The databases that may have an outbox, by the routers of the project."""
    from cloudtask.models import OutboxMessage

    return [
        alias
        for alias in connections
        if router.allow_migrate_model(alias, OutboxMessage)
    ]


def parked(alias: str, limit: int = 100) -> list[OutboxMessage]:
    """Rows that can't be sent as they are, oldest first; `error` says why."""
    from cloudtask.models import OutboxMessage

    rows = _rows(alias).filter(state=OutboxMessage.State.PARKED)
    return list(rows.order_by("created_at")[:limit])


def release(alias: str, keys: Sequence[str] | None = None) -> int:
    """Let relays try parked rows again, all or those of `keys`; how many."""
    from cloudtask.models import OutboxMessage

    rows = _rows(alias).filter(state=OutboxMessage.State.PARKED)
    if keys is not None:
        rows = rows.filter(key__in=keys)
    return rows.update(state=OutboxMessage.State.WAITING, due_at=Now(), attempts=0)


def _claim(alias: str, count: int) -> list[OutboxMessage]:
    from cloudtask.models import OutboxMessage

    due = _rows(alias).filter(state=OutboxMessage.State.WAITING, due_at__lte=Now())
    due = due.order_by("created_at", "key")
    if connections[alias].features.has_select_for_update_skip_locked:
        with transaction.atomic(using=alias):
            rows = list(due.select_for_update(skip_locked=True)[:count])
            keys = [row.key for row in rows]
            _rows(alias).filter(key__in=keys).update(due_at=Now() + LEASE)
            return rows
    return [row for row in due[:count] if _take(row, alias)]


def _take(row: OutboxMessage, alias: str) -> bool:
    """Claim one row where rows can't be skipped: whoever changes `due_at` has it."""
    untouched = _rows(alias).filter(key=row.key, due_at=row.due_at)
    return bool(untouched.update(due_at=Now() + LEASE))


def _send_rows(alias: str, rows: Sequence[OutboxMessage]) -> RelayReport:
    opened: list[tuple[OutboxMessage, Message]] = []
    report = RelayReport()
    for row in rows:
        try:
            message = envelope.unseal(bytes(row.envelope), now=time.time())
        except PayloadError as error:
            report += _park(alias, row, error)
        else:
            opened.append((row, message))
    failpoints.reached("relay.before_send")
    try:
        errors = transport().send_many([message for _, message in opened])
    except CloudTaskError as error:
        errors = [EnqueueUnavailable(str(error))] * len(opened)
    failpoints.reached("relay.after_send")
    for (row, _), failure in zip(opened, errors, strict=True):
        report += _settle(alias, row, failure)
    return report


def _settle(alias: str, row: OutboxMessage, error: EnqueueError | None) -> RelayReport:
    if error is None:
        _rows(alias).filter(key=row.key).delete()
        return RelayReport(sent=1)
    passing = isinstance(error, EnqueueUnavailable) or (
        isinstance(error, QueueNotFound) and row.attempts < PARK_AFTER
    )
    if not passing:
        return _park(alias, row, error)
    pause = min(2.0**row.attempts, LONGEST_PAUSE) * random.uniform(0.75, 1.25)
    _rows(alias).filter(key=row.key).update(
        due_at=Now() + timedelta(seconds=pause),
        attempts=F("attempts") + 1,
        error=str(error),
    )
    return RelayReport(postponed=1)


def _park(alias: str, row: OutboxMessage, error: Exception) -> RelayReport:
    from cloudtask.models import OutboxMessage

    logger.error("A message of the outbox can't be sent and is parked: %s", error)
    _rows(alias).filter(key=row.key).update(
        state=OutboxMessage.State.PARKED,
        attempts=F("attempts") + 1,
        error=str(error),
    )
    return RelayReport(parked=1)
