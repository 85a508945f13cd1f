"""Sends what waits in the outboxes, after a crash or an outage.

A row is WAITING until it is sent and deleted, or PARKED when sending it again can't
help. A relay may take a row from `due_at` on, and then moves `due_at` ahead: if the
relay crashes, another one takes the row at that time. Sending a row twice makes one
task, since the name of the task follows from the id of the message.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connections, router, transaction
from django.db.models import F, Q

from cloudtask import carriers, clock, envelope, failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import (
    ConfigurationError,
    DuplicateTask,
    EnqueueUnavailable,
    PayloadTooLarge,
)
from cloudtask.message import Message
from cloudtask.sending.table import forget_rows, rows_of
from cloudtask.stores import note_upkeep
from cloudtask.stores.database.fitting import check, fetched, mend, misfits
from cloudtask.stores.database.fitting import place_of as place_of_row
from cloudtask.stores.fitting import Unreadable
from cloudtask.stores.transactions import is_relational, translated
from cloudtask.transports import transport

if TYPE_CHECKING:
    from cloudtask.models import OutboxMessage

logger = logging.getLogger("cloudtask")

LEASE = timedelta(seconds=120)  # for a relay to send the rows that it has taken
BATCH = 100  # rows that a relay takes at once
PARK_AFTER = 8  # refusals that may pass, for example of a queue just created
A_DEPLOY = 150  # tries of a row that another version made: about a day
FARTHEST = timedelta(days=1)  # ahead, which no relay moves a row
LONGEST_PAUSE = 600  # seconds between two tries of a row
STALE = timedelta(days=1).total_seconds()  # age at which `created` is set to now


@dataclass(frozen=True, slots=True)
class RelayReport:
    """The result of one relay: rows sent, postponed and parked."""

    sent: int = 0
    postponed: int = 0
    parked: int = 0

    def __add__(self, other: RelayReport) -> RelayReport:
        return RelayReport(
            self.sent + other.sent,
            self.postponed + other.postponed,
            self.parked + other.parked,
        )

    def __str__(self) -> str:
        return f"{self.sent} sent, {self.postponed} postponed, {self.parked} parked"


def relay(
    alias: str = "default", *, limit: int | None = None, seconds: float = 60.0
) -> RelayReport:
    """Send what is due in the outbox of `alias`, oldest first, in batches.

    Takes `limit` rows at most, if given. Stops after `seconds`, and after a batch for
    which Cloud Tasks could not be reached. Any number of relays may run at once.
    """
    report = RelayReport(parked=_park_lost(alias))
    stop = time.monotonic() + seconds
    left = sys.maxsize if limit is None else limit
    told: set[type[Exception]] = set()
    while left > 0 and time.monotonic() < stop:
        rows = _claim(alias, min(left, BATCH))
        if not rows:
            break
        failpoints.reached("relay.claimed")
        left -= len(rows)
        errors = _send_rows(rows)
        report += _settle(alias, rows, errors)
        _tell(alias, errors, told)
        if all(isinstance(error, EnqueueUnavailable) for error in errors):
            break
    return report


def relay_all(
    using: Sequence[str] = (), *, limit: int | None = None, seconds: float = 60.0
) -> RelayReport:
    """Relay the outboxes of all databases, or of those in `using`, one after the other.

    The bounds hold for each of them. When a database can't be reached, an
    EnqueueUnavailable is raised after the others, and for other errors the
    DatabaseError. A database without the table is passed over unless `using` names it.
    """
    report = RelayReport()
    failure: DatabaseError | EnqueueUnavailable | None = None
    for alias in using or aliases():
        try:
            with translated("Relaying the outbox", alias):
                if using or has_outbox(alias):
                    report += relay(alias, limit=limit, seconds=seconds)
        except (DatabaseError, EnqueueUnavailable) as error:
            logger.error("The outbox of %r was not relayed: %s", alias, error)
            failure = failure or error
    if failure is not None:
        raise failure
    note_upkeep("relay", str(report))
    return report


def aliases() -> list[str]:
    """The databases that may have an outbox, by the routers of the project."""
    from cloudtask.models import OutboxMessage

    return [
        alias
        for alias in connections
        if is_relational(alias) and router.allow_migrate_model(alias, OutboxMessage)
    ]


def has_outbox(alias: str) -> bool:
    """Whether the table exists: without a router every database seems to have it."""
    from cloudtask.models import OutboxMessage

    tables = connections[alias].introspection.table_names()
    return OutboxMessage._meta.db_table in tables


def parked(alias: str, limit: int = 100) -> list[OutboxMessage]:
    """Rows that can't be sent as they are, oldest first; `error` says why."""
    from cloudtask.models import OutboxMessage

    rows = rows_of(alias).filter(state=OutboxMessage.State.PARKED)
    with translated("Listing parked messages", alias):
        found = fetched(rows.order_by("created_at", "key")[:limit])
    for row in found:
        row.error = mend(row) or row.error
    return found


def release(alias: str, keys: Sequence[str] | None = None) -> int:
    """Let relays try parked rows again, all or those of `keys`; how many."""
    from cloudtask.models import OutboxMessage

    rows = rows_of(alias).filter(state=OutboxMessage.State.PARKED)
    if keys is not None:
        rows = rows.filter(key__in=keys)
    with translated("Releasing parked messages", alias):
        return rows.update(
            state=OutboxMessage.State.WAITING, due_at=database_now(), attempts=0
        )


def try_to_send(messages: Sequence[Message]) -> list[Exception | None]:
    """Send `messages`: for each, in order, what went wrong, or None. Never raises."""
    try:
        if carriers.state.is_unobserved:
            return _sent(messages)
        with carriers.sending(messages):
            return _sent(messages)
    except Exception as error:  # noqa: BLE001  one message must not stop others
        if len(messages) == 1:
            return [error]
        return [try_to_send([message])[0] for message in messages]


def _sent(messages: Sequence[Message]) -> list[Exception | None]:
    if len(messages) == 1:
        transport().send(messages[0])
        return [None]
    return [*transport().send_many(messages)]


def _claim(alias: str, count: int) -> list[OutboxMessage]:
    from cloudtask.models import OutboxMessage

    is_due = Q(due_at__lte=database_now())
    # At a time that no relay sets, it would wait for years.
    is_due |= Q(due_at__gt=database_now() + FARTHEST)
    due = rows_of(alias).filter(is_due, state=OutboxMessage.State.WAITING)
    due = due.order_by("created_at", "key")
    if connections[alias].features.has_select_for_update_skip_locked:
        with transaction.atomic(using=alias):
            rows = fetched(due.select_for_update(skip_locked=True)[:count])
            keys = [row.key for row in rows]
            rows_of(alias).filter(key__in=keys).update(due_at=database_now() + LEASE)
            return rows
    return [row for row in fetched(due[:count]) if _take(row, alias)]


def _park_lost(alias: str) -> int:
    """Park rows in a state that does not exist: nothing else looks for them."""
    from cloudtask.models import OutboxMessage

    state = OutboxMessage.State
    lost = rows_of(alias).exclude(state__in=state.values)
    keys = list(lost.values_list("key", flat=True)[:BATCH])
    for key in keys:
        row = OutboxMessage(key=key, state="")
        logger.error("%s", error := Unreadable(place_of_row(row, "state")))
        rows_of(alias).filter(key=key).update(state=state.PARKED, error=str(error))
    return len(keys)


def _take(row: OutboxMessage, alias: str) -> bool:
    """Claim a row without SKIP LOCKED: the first to move `due_at` ahead has it."""
    # Not the `due_at` that was read: SQLite keeps some times with fewer digits.
    rows = rows_of(alias).filter(key=row.key)
    until = database_now() + LEASE
    if rows.filter(due_at__lte=database_now()).update(due_at=until):
        return True
    far = database_now() + FARTHEST
    return bool(rows.filter(due_at__gt=far).update(due_at=until))


def _send_rows(rows: Sequence[OutboxMessage]) -> list[Exception | None]:
    messages: dict[str, Message] = {}
    errors: dict[str, Exception | None] = {}
    for row in rows:
        try:
            messages[row.key] = opened(row)
        except envelope.UnknownVersion as error:
            errors[row.key] = _OfAnotherVersion(f"{error} A newer one may send it.")
        except Exception as error:  # noqa: BLE001  whatever is in it, the others go on
            errors[row.key] = _Unreadable(f"{type(error).__name__}: {error}")
    failpoints.reached("relay.before_send")
    if messages:
        sent = try_to_send([*messages.values()])
        errors.update(zip(messages, sent, strict=True))
    failpoints.reached("relay.after_send")
    return [errors[row.key] for row in rows]


class _Unreadable(Exception):
    """The row can't be opened by this version, with these keys."""


class _OfAnotherVersion(_Unreadable):
    """Another version made the row, whose relays will run once its deploy is over."""


def place_of(key: str, task: str, queue: str) -> envelope.Place:
    """The place that the envelope of a row is sealed for, with what lists show of it:
    nobody releases a row that is another one than it seems."""
    return "outbox", key, "envelope", task, queue


def opened(row: OutboxMessage) -> Message:
    """The message of a row; raises PayloadError."""
    # A row does not expire. Nor must a message that waited here for long, for example
    # parked, expire on its way.
    check(row)
    place = place_of(row.key, row.task, row.queue)
    message = envelope.unseal_resting(bytes(row.envelope), place=place)
    now = clock.now()
    return replace(message, created=now) if now - message.created > STALE else message


def _settle(
    alias: str, rows: Sequence[OutboxMessage], errors: Sequence[Exception | None]
) -> RelayReport:
    outcomes = list(zip(rows, errors, strict=True))
    sent = [row.key for row, error in outcomes if error is None]
    forget_rows(alias, sent)
    failed = [(row, error) for row, error in outcomes if error is not None]
    return RelayReport(sent=len(sent)) + _put_off(alias, failed)


def _put_off(
    alias: str, failed: Iterable[tuple[OutboxMessage, Exception]]
) -> RelayReport:
    from cloudtask.models import OutboxMessage

    report = RelayReport()
    for row, error in failed:
        values: dict[str, Any] = {
            "attempts": F("attempts") + 1,
            "error": _text(error),
            # What can't be read would hide why.
            **misfits(row),
        }
        if may_pass(row.attempts, error):
            values["due_at"] = database_now() + _pause(row.attempts)
            report += RelayReport(postponed=1)
        else:
            logger.error(
                "A message of the outbox can't be sent and is parked: %s", error
            )
            values["state"] = OutboxMessage.State.PARKED
            report += RelayReport(parked=1)
        rows_of(alias).filter(key=row.key).update(**values)
    return report


def _tell(
    alias: str, errors: Iterable[Exception | None], told: set[type[Exception]]
) -> None:
    """Log the first error of each kind: hundreds of rows may wait for one reason."""
    for error in errors:
        if error is not None and type(error) not in told:
            told.add(type(error))
            logger.warning("Messages were not sent from %r: %s", alias, error)


def _pause(attempts: int) -> timedelta:
    seconds = min(2 ** min(attempts, 16), LONGEST_PAUSE)
    return timedelta(seconds=seconds * random.uniform(0.75, 1.25))


def may_pass(attempts: int, error: Exception) -> bool:
    """Whether sending a row again may help, after `attempts` tries before this one."""
    if isinstance(error, EnqueueUnavailable | ConfigurationError):
        return True
    if isinstance(error, _OfAnotherVersion):
        return attempts + 1 < A_DEPLOY
    if isinstance(error, DuplicateTask | PayloadTooLarge | _Unreadable):
        return False
    return attempts + 1 < PARK_AFTER


def _text(error: Exception) -> str:
    """The error as text that every database can store."""
    text = f"{error}" if isinstance(error, _Unreadable) else _named(error)
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
