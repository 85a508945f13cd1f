"""The entries that wait in Django's on_commit list, and what they send."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from django.db import connections, transaction

from cloudtask import conf, failpoints
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.message import Message
from cloudtask.sending.relay import BATCH, forget_rows, relay, try_to_send
from cloudtask.transports import Transport, transport

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("cloudtask")

Send = Callable[[Sequence[Message]], None]

PIGGYBACK_EVERY = 30.0  # seconds between two looks of one process at its outbox
OUTAGE = 5.0  # seconds for which commits leave their rows to a relay


class AfterCommit:
    """The on-commit entry of some messages: sends them once, however often called.

    `made` counts the entries of this process, `homes` are the connections that have,
    or had, some: other threads have others, which Django does not tell.
    """

    made: ClassVar[int] = 0
    homes: ClassVar[WeakSet[BaseDatabaseWrapper]] = WeakSet()

    def __init__(self, messages: Sequence[Message], alias: str, send: Send) -> None:
        self.messages = tuple(messages)
        self.alias = alias
        self.send = send
        AfterCommit.made += 1
        AfterCommit.homes.add(connections[alias])

    def __call__(self) -> None:
        messages, self.messages = self.messages, ()
        if messages:
            self.send(messages)


def send_after(messages: Sequence[Message], alias: str, send: Send) -> None:
    """Call `send` when the transaction on `alias` commits.

    What it raises is raised after the commit. A process that crashes between the commit
    and the call loses the messages.
    """
    transaction.on_commit(AfterCommit(messages, alias, send), using=alias)


def relay_after(messages: Sequence[Message], alias: str) -> None:
    """Send messages that have outbox rows when the transaction on `alias` commits."""

    def leave(messages: Sequence[Message]) -> None:
        failpoints.reached("outbox.committed")
        try:
            _relay(messages, alias)
        except Exception:
            # Raising would keep the entries behind this one from being called.
            logger.exception("What a commit left in the outbox is left to a relay.")

    transaction.on_commit(AfterCommit(messages, alias, leave), using=alias)


def _relay(messages: Sequence[Message], alias: str) -> None:
    for start in range(0, len(messages), BATCH):
        if outage.lasts():
            return
        _relay_batch(messages[start : start + BATCH], alias)
    piggyback.ride(alias)


def _relay_batch(messages: Sequence[Message], alias: str) -> None:
    errors = try_to_send(messages)
    failpoints.reached("outbox.sent")
    for message, error in zip(messages, errors, strict=True):
        if error is not None:
            logger.warning(
                "Task %s (%s) stays in the outbox of %r: %s",
                message.task,
                message.id,
                alias,
                error,
            )
    if all(isinstance(error, EnqueueUnavailable) for error in errors):
        outage.begins()
    sent = [m.key for m, error in zip(messages, errors, strict=True) if not error]
    forget_rows(alias, sent)


class _Outage:
    """Remembers for a moment that a transport did not answer.

    Commits do not wait for it one after the other meanwhile: their rows are safe.
    """

    def __init__(self) -> None:
        self.of: Transport | None = None
        self.until = 0.0

    def begins(self) -> None:
        self.of, self.until = transport(), time.monotonic() + OUTAGE

    def lasts(self) -> bool:
        return time.monotonic() < self.until and self.of is transport()


outage = _Outage()


class _Piggyback:
    """Relays a few rows beside an enqueue, every PIGGYBACK_EVERY seconds.

    So the rows of a process that crashed are sent where no relay is scheduled.
    """

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
