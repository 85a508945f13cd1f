"""Messages that wait for a commit, and those sent without one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from django.db import InterfaceError, OperationalError, connections, transaction

from cloudtask import conf, envelope, failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import DuplicateTask, EnqueueError, EnqueueUnavailable
from cloudtask.message import Message
from cloudtask.sending.relay import (
    BATCH,
    RelayReport,
    aliases,
    has_outbox,
    parked,
    relay,
    relay_all,
    release,
    rows_of,
    try_to_send,
)
from cloudtask.sending.relay import forget as forget_rows
from cloudtask.stores import store
from cloudtask.transports import Transport, transport

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from cloudtask.models import OutboxMessage

__all__ = [
    "AfterCommit",
    "RelayAfterCommit",
    "RelayReport",
    "add",
    "aliases",
    "forget",
    "has_outbox",
    "parked",
    "relay",
    "relay_all",
    "release",
    "send",
    "send_named",
    "send_on_commit",
]

logger = logging.getLogger("cloudtask")

HEAD_START = timedelta(seconds=15)  # for the process that made the row to send it
PIGGYBACK_EVERY = 30.0  # seconds between two looks of one process at its outbox
OUTAGE = 5.0  # seconds for which commits leave their rows to a relay
LARGEST_INSERT = 1_500_000  # bytes; escaped they double, and servers bound a packet


def send(messages: Sequence[Message]) -> None:
    """Hand `messages` to the transport; raises the first EnqueueError.

    Its `failures` maps places in `messages` to errors. A `unique` message whose name is
    taken counts as sent: one like it waits.
    """
    failpoints.reached("enqueue.before_send")
    _send(messages)
    failpoints.reached("enqueue.after_send")


def send_named(messages: Sequence[Message]) -> None:
    """Send what may have been sent before under the same names: that is as good."""
    errors = dict(enumerate(transport().send_many(messages)))
    _raise_all(
        {i: e for i, e in errors.items() if e and not isinstance(e, DuplicateTask)},
        len(messages),
    )


def _send(messages: Sequence[Message]) -> None:
    if len(messages) == 1:
        try:
            transport().send(messages[0])
        except DuplicateTask as error:
            if not _waits_already(messages[0], error):
                raise
        return
    errors = enumerate(transport().send_many(messages))
    _raise_all(
        {i: e for i, e in errors if e and not _waits_already(messages[i], e)},
        len(messages),
    )


def _waits_already(message: Message, error: EnqueueError) -> bool:
    if message.unique is None or not isinstance(error, DuplicateTask):
        return False
    logger.info(
        "Task %s (%s) was not enqueued: one of its unique key waits in the queue, or "
        "ran a short while ago.",
        message.task,
        message.id,
    )
    return True


def _raise_all(failures: dict[int, EnqueueError], total: int) -> None:
    if not failures:
        return
    first = next(iter(failures.values()))
    error = type(first)(f"{len(failures)} of {total} calls were not enqueued: {first}")
    error.failures = failures
    raise error from first


class AfterCommit:
    """The on-commit entry of some messages: sends them once, however often called.

    `made` counts the entries of this process, `homes` are the connections that have,
    or had, some: other threads have others, which Django does not tell.
    """

    made: ClassVar[int] = 0
    homes: ClassVar[WeakSet[BaseDatabaseWrapper]] = WeakSet()

    def __init__(self, messages: Sequence[Message], alias: str) -> None:
        self.messages = tuple(messages)
        self.alias = alias
        AfterCommit.made += 1
        AfterCommit.homes.add(connections[alias])

    def __call__(self) -> None:
        messages, self.messages = self.messages, ()
        if messages:
            self.leave(messages)

    def leave(self, messages: Sequence[Message]) -> None:
        """Send without a row: what fails raises, after the commit."""
        send(messages)


class RelayAfterCommit(AfterCommit):
    """Sends messages that have rows. What fails is left to a relay: raising would keep
    other entries of the commit from being called."""

    def leave(self, messages: Sequence[Message]) -> None:
        failpoints.reached("outbox.committed")
        try:
            self._leave(messages)
        except Exception:
            logger.exception("What a commit left in the outbox is left to a relay.")

    def _leave(self, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), BATCH):
            if outage.lasts():
                return
            self._leave_batch(messages[start : start + BATCH])
        piggyback.ride(self.alias)

    def _leave_batch(self, messages: Sequence[Message]) -> None:
        errors = try_to_send(messages)
        failpoints.reached("outbox.sent")
        for message, error in zip(messages, errors, strict=True):
            if error is not None:
                logger.warning(
                    "Task %s (%s) stays in the outbox of %r: %s",
                    message.task,
                    message.id,
                    self.alias,
                    error,
                )
        if all(isinstance(error, EnqueueUnavailable) for error in errors):
            outage.begins()
        sent = [m.key for m, error in zip(messages, errors, strict=True) if not error]
        forget_rows(self.alias, sent)


class _Outage:
    """Remembers for a moment that a transport did not answer, so that commits do not
    wait for it one after the other: their rows are safe."""

    def __init__(self) -> None:
        self.of: Transport | None = None
        self.until = 0.0

    def begins(self) -> None:
        self.of, self.until = transport(), time.monotonic() + OUTAGE

    def lasts(self) -> bool:
        return time.monotonic() < self.until and self.of is transport()


outage = _Outage()


def send_on_commit(messages: Sequence[Message], alias: str) -> None:
    """Send when the transaction on `alias` commits; lost if the process dies then."""
    transaction.on_commit(AfterCommit(messages, alias), using=alias)


def add(messages: Sequence[Message], alias: str) -> None:
    """Put `messages` into the outbox of `alias`, in its open transaction, and send them
    after the commit; without a transaction, in one of their own.

    Raises EnqueueUnavailable when the database can't be reached.
    """
    marked = [replace(message, outboxed=True) for message in messages]
    # Before the block: what can't be sealed must not break the caller's transaction.
    inserts = list(_inserts([_row(message) for message in marked]))
    try:
        with transaction.atomic(using=alias, savepoint=False):
            for rows in inserts:
                rows_of(alias).bulk_create(rows)
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
        created_at=database_now(),
        due_at=database_now() + HEAD_START,
    )


def _inserts(rows: Sequence[OutboxMessage]) -> Iterator[list[OutboxMessage]]:
    """`rows` in lists that are not too large for one statement."""
    chunk: list[OutboxMessage] = []
    size = 0
    for row in rows:
        size += len(row.envelope)
        if chunk and size > LARGEST_INSERT:
            yield chunk
            chunk, size = [], len(row.envelope)
        chunk.append(row)
    yield chunk


def keep_payloads(alias: str, older_than: timedelta) -> None:
    """Let the payloads of rows that wait, or are parked, for so long not be pruned."""
    waiting = rows_of(alias).filter(created_at__lt=database_now() - older_than)
    for key in waiting.values_list("key", flat=True).iterator():
        store().touch_payload(key.partition("-")[0])


def forget(message: Message) -> None:
    """Delete the row of a message that has arrived, should it still be there."""
    if message.outboxed:
        forget_rows(message.options.database, [message.key])


class _Piggyback:
    """A small relay beside an enqueue, now and then: what a dead process left behind is
    sent even where no relay is scheduled."""

    def __init__(self) -> None:
        self.next: dict[str, float] = {}

    def ride(self, alias: str) -> None:
        """Relay a little if it is time; raises DatabaseError."""
        now = time.monotonic()
        if conf.in_tests() or now < self.next.setdefault(alias, now + PIGGYBACK_EVERY):
            return
        self.next[alias] = now + PIGGYBACK_EVERY
        relay(alias, limit=20, seconds=2.0)


piggyback = _Piggyback()
