"""Sends after a commit what the transaction has enqueued: all of it at once.

Each `defer()` puts an entry into Django's on_commit list. Django drops the entries of a
savepoint that an `atomic()` block rolls back, and calls the others after the commit.
The first one that is called sends the messages of all. A message with an outbox row
passes these states; each line says what a crash leaves behind there, and what happens
then.

    written     the row is in the open transaction   the database removes it
    reverted    a rollback removed the row           nothing; it is not sent
    committed   the row waits, due in HEAD_START     a relay sends it
    read        only rows that still exist are sent  a relay sends it
    sent        the task and the row exist           a relay sends the same name again,
                                                     or the delivery deletes the row
    deleted     only the task exists                 nothing is left to do
    left        a hook before ours raised, so        the next look of this thread sends
                Django called none of ours           it, else a relay

Rows are read before they are sent, since Django does not know of every rollback: not of
one to a savepoint made by `transaction.savepoint()`. The query is left out for a single
message when no savepoint was rolled back after it was written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.core.signals import request_finished
from django.db import connections, transaction

from cloudtask import failpoints
from cloudtask.discretion import discreet
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.message import Message
from cloudtask.sending.relay import relay, try_to_send
from cloudtask.sending.table import existing, forget_rows
from cloudtask.transports import Transport, transport

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("cloudtask")

Send = Callable[[Sequence[Message]], None]

AT_ONCE = 1000  # messages that are sent before their rows are deleted
HURRY = 10.0  # seconds after which a relay may have sent a row: less than HEAD_START
PIGGYBACK_EVERY = 30.0  # seconds between two looks of one process at its outbox
OUTAGE = 5.0  # seconds for which commits leave their rows to a relay


class Entry:
    """The entry of one enqueue in Django's on_commit list; a second call does nothing.

    `send` sends messages that have no row. `savepoints` are those that were open.
    """

    __slots__ = ("commit", "messages", "savepoints", "send")

    def __init__(
        self, commit: Commit, messages: Sequence[Message], send: Send | None
    ) -> None:
        self.commit = commit
        self.messages = tuple(messages)
        self.savepoints = frozenset(connections[commit.alias].savepoint_ids)
        self.send = send

    @discreet
    def __call__(self) -> None:
        if self.messages:
            self.commit.called(self)

    def take(self) -> tuple[Message, ...]:
        messages, self.messages = self.messages, ()
        return messages


class Commit:
    """The entries of one transaction, or of what follows on it in the same list.

    `hooks` is Django's list as it was when the last entry was made: Django replaces the
    list at the end of a transaction, and when a savepoint is rolled back.
    """

    def __init__(self, alias: str, before: Commit | None) -> None:
        self.alias = alias
        self.hooks: list[Any] = connections[alias].run_on_commit
        self.first: Any = None
        self.since = time.monotonic()
        self.entries: list[Entry] = before.followed_by(self) if before else []
        self.is_doubtful = bool(self.entries)

    def followed_by(self, after: Commit) -> list[Entry]:
        """The entries that `after` takes over, since they are still to be sent."""
        if self.was_interrupted:
            taken = [entry for entry in self.entries if entry.send is None]
        else:
            there = {id(func) for _, func, *_ in after.hooks}
            taken = [entry for entry in self.entries if id(entry) in there]
        for entry in taken:
            entry.commit = after
        return taken

    @property
    def was_interrupted(self) -> bool:
        """Whether Django began to call the hooks, and did not come to ours.

        It removes each one from the list before it calls it. At a rollback it leaves
        the list as it is, and begins another one.
        """
        return self.first is not None and self.hooks[:1] != [self.first]

    def add(self, messages: Sequence[Message], send: Send | None) -> None:
        entry = Entry(self, messages, send)
        self.entries.append(entry)
        transaction.on_commit(entry, using=self.alias)
        if self.first is None and self.hooks:
            self.first = self.hooks[0]

    def called(self, entry: Entry) -> None:
        """Send what the transaction has left, since `entry` was called."""
        is_sure, entries = True, self.entries
        if any(func is entry for _, func, *_ in self.hooks):
            is_sure = False
            if connections[self.alias].run_on_commit is self.hooks:
                entries = [entry]  # captureOnCommitCallbacks() calls it, no commit
        if entry.send is None:
            self.send_rows(entries, is_sure=is_sure)
        elif is_sure:
            self.send_small([one for one in entries if one.send is not None])
        else:
            self.send_small([entry])

    def send_rows(self, entries: Sequence[Entry], *, is_sure: bool = False) -> None:
        """Send the messages of `entries` whose rows exist; never raises an Exception.

        An exception would keep the hooks that follow from being called.
        """
        messages = self._taken(one for one in entries if one.send is None)
        if not messages:
            return
        late = time.monotonic() > self.since + HURRY
        is_sure = is_sure and not self.is_doubtful and not late and len(messages) == 1
        failpoints.reached("outbox.committed")
        try:
            _relay(messages if is_sure else existing(messages, self.alias), self.alias)
        except Exception:
            logger.exception("Messages of the outbox are left to a relay.")

    def send_small(self, entries: Sequence[Entry]) -> None:
        """Send messages that have no row; raises what the transport raises."""
        send = next(entry.send for entry in entries if entry.send is not None)
        send(self._taken(entries))

    def _taken(self, entries: Iterable[Entry]) -> list[Message]:
        chosen = [entry for entry in entries if entry.messages]
        messages = [message for entry in chosen for message in entry.take()]
        gone = {id(entry) for entry in chosen}
        self.entries = [entry for entry in self.entries if id(entry) not in gone]
        return messages


commits: WeakKeyDictionary[BaseDatabaseWrapper, Commit] = WeakKeyDictionary()


def send_after(messages: Sequence[Message], alias: str, send: Send) -> None:
    """Call `send` when the transaction on `alias` commits.

    Its errors are raised after the commit. A process that crashes between the commit
    and the call loses the messages.
    """
    # In a block, since Django takes no entry after set_autocommit(False) without one.
    with transaction.atomic(using=alias, savepoint=False):
        _commit_on(alias).add(messages, send)


def relay_after(messages: Sequence[Message], alias: str) -> None:
    """Send messages that have outbox rows when the transaction on `alias` commits."""
    _commit_on(alias).add(messages, None)


def uncommitted(alias: str) -> list[Message]:
    """The messages that the open transaction of this thread has left for its commit."""
    commit = commits.get(connections[alias])
    if commit is None or commit.hooks is not connections[alias].run_on_commit:
        return []
    rowless = [m for e in commit.entries if e.send is not None for m in e.messages]
    rows = [m for e in commit.entries if e.send is None for m in e.messages]
    return [*rowless, *existing(rows, alias)]


def withdraw(is_meant: Callable[[Message], bool], alias: str) -> list[str]:
    """The keys of meant messages whose outbox rows the open transaction has written.

    The commit then looks which rows exist, so the caller can delete those rows.
    """
    commit = commits.get(connections[alias])
    if commit is None or commit.hooks is not connections[alias].run_on_commit:
        return []
    waiting = (entry for entry in commit.entries if entry.send is None)
    found = [one.key for entry in waiting for one in entry.messages if is_meant(one)]
    commit.is_doubtful = commit.is_doubtful or bool(found)
    return found


def _commit_on(alias: str) -> Commit:
    connection: Any = connections[alias]
    commit = commits.get(connection)
    if commit is None or commit.hooks is not connection.run_on_commit:
        commit = commits[connection] = Commit(alias, commit)
    return commit


def look(**kwargs: object) -> None:
    """Send what commits of this thread have left because a hook before ours raised."""
    if not commits:
        return
    for connection in connections.all(initialized_only=True):
        commit = commits.get(connection)
        if commit is None or connection.in_atomic_block:
            continue
        if commit.hooks is not connection.run_on_commit:
            del commits[connection]
            if commit.entries and commit.was_interrupted:
                commit.send_rows(commit.entries)


request_finished.connect(look, dispatch_uid="cloudtask.sending.on_commit")


def _relay(messages: Sequence[Message], alias: str) -> None:
    # By queue, since a request to Cloud Tasks is about one queue.
    ordered = sorted(messages, key=lambda message: message.queue)
    for start in range(0, len(ordered), AT_ONCE):
        if outage.lasts():
            return
        _relay_some(ordered[start : start + AT_ONCE], alias)
    piggyback.ride(alias)


def _relay_some(messages: Sequence[Message], alias: str) -> None:
    errors = try_to_send(messages)
    failpoints.reached("outbox.sent")
    _tell(messages, errors, alias)
    if all(isinstance(error, EnqueueUnavailable) for error in errors):
        outage.begins()
    sent = [m.key for m, error in zip(messages, errors, strict=True) if not error]
    forget_rows(alias, sent)


def _tell(
    messages: Sequence[Message], errors: Sequence[Exception | None], alias: str
) -> None:
    """Log each reason once, with one of its messages."""
    reasons: dict[object, list[str]] = {}
    for message, error in zip(messages, errors, strict=True):
        if error is not None:
            # Errors of a transport name the task; those of other kinds do not.
            name, text = f"Task {message.task} ({message.id})", str(error)
            named = text if name in text else f"{name}: {text or type(error).__name__}"
            reason = (type(error), text.replace(name, ""))
            reasons.setdefault(reason, []).append(named)
    for texts in reasons.values():
        logger.warning(
            "%s in the outbox of %r%s: %s",
            f"{len(texts)} messages stay" if texts[1:] else "A message stays",
            alias,
            ", for example this one" if texts[1:] else "",
            texts[0],
        )


class _Outage:
    """Remembers for a moment that a transport did not answer.

    Commits do not wait for it one after the other meanwhile: their rows are safe.
    """

    def __init__(self) -> None:
        self.of: Transport | None = None
        self.until = 0.0

    def begins(self) -> None:
        if getattr(transport(), "has_outages", True):
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
        if now < self.next.setdefault(alias, now + PIGGYBACK_EVERY):
            return
        self.next[alias] = now + PIGGYBACK_EVERY
        if getattr(transport(), "piggybacks", True):
            relay(alias, limit=20, seconds=2.0)


piggyback = _Piggyback()
