"""The tick: enqueues each call that is due, once, however many relays tick.

A row holds the latest moment that was dealt with. The tick that moves it on, by
compare-and-set, puts the call into the outbox in the same transaction.

    due        the row is behind                       the next tick does it
    moved      the row and the outbox row, or neither  a relay sends the row
    sent       the call is in the queue                nothing is left to do

Without tables, as in Datastore, there is no outbox. There the tick sends the call, and
moves the row on then. The call has a name that follows from key and moment, so another
tick, or one after a crash in between, makes no second call.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from django.db import transaction

from cloudtask import failpoints, signals
from cloudtask.delivering.marks import schedules_in
from cloudtask.discretion import said
from cloudtask.exceptions import CloudTaskError
from cloudtask.message import Message
from cloudtask.schedules.declared import MOST_COUNTED, Declared, declared
from cloudtask.sending import enqueueing, outbox, payloads
from cloudtask.sending.limits import check_tables
from cloudtask.stores import store
from cloudtask.stores.schedules import ScheduleStore, StoredSchedule
from cloudtask.stores.transactions import is_relational

logger = logging.getLogger("cloudtask")

WITHOUT_TABLES = "Keep the state in Datastore, or let a cron job defer the task."
GRACE = timedelta(seconds=90)  # a tick a minute, and some delay
MOST_A_TICK = 20  # calls of one schedule with catch_up="all"
MOST_LOOKED_AT = 1000  # moments of one schedule
SILENCE = timedelta(minutes=10)  # without a tick: the relay does not run


@dataclass(frozen=True, slots=True)
class TickReport:
    """The counts of one tick: calls enqueued, and moments without a call."""

    enqueued: int = 0
    missed: int = 0

    def __add__(self, other: TickReport) -> TickReport:
        return TickReport(self.enqueued + other.enqueued, self.missed + other.missed)

    def __str__(self) -> str:
        missed = f", {self.missed} missed" if self.missed else ""
        return f"{self.enqueued} calls of schedules enqueued{missed}"


class TickFailed(CloudTaskError):
    """One or more schedules were not looked at; all others were."""


def tick() -> TickReport:
    """Enqueue what is due by the schedules that this code declares.

    Any number of ticks may run at once. Raises TickFailed, after all others, if a
    schedule fails.
    """
    report, failures = TickReport(), []
    known = declared()
    for alias in sorted({one.alias for one in known.values()}):
        _note_silence(alias)
    for one in known.values():
        try:
            report += _tick(one)
        except Exception as error:
            logger.exception("The schedule %s failed.", one.key)
            failures.append(f"{one.key}: {type(error).__name__}: {said(error)}")
    if failures:
        raise TickFailed("; ".join(failures))
    return report


def kept_in(alias: str, what: str) -> ScheduleStore:
    """Where schedules of tasks with this database are kept.

    Raises ConfigurationError for a database without tables, unless the store is in
    Datastore.
    """
    if store().database is not None:
        check_tables(alias, what, "a schedule", WITHOUT_TABLES)
    return schedules_in(alias)


def _note_silence(alias: str) -> None:
    """Log an error if no relay has ticked for SILENCE."""
    try:
        silence = kept_in(alias, "A schedule").since_tick()
    except Exception:  # noqa: BLE001  each schedule below reports the same error
        return
    if silence is not None and silence > SILENCE:
        logger.error(
            "No relay has looked at the schedules in the database %r for %d minutes. "
            "Run the relay once a minute.",
            alias,
            silence // timedelta(minutes=1),
        )


def _tick(one: Declared) -> TickReport:
    kept, row = _opened(one)
    if row.schedule != one.text:
        # Two versions may tick in turn: neither repeats what the other has done.
        kept.move_schedule(row, max(row.last_at, row.now - GRACE), schedule=one.text)
        kept, row = _opened(one)
    kept.note_tick(one.key)
    if not row.enabled:
        return TickReport()
    start = max(row.last_at, row.now - one.window)
    found = one.between(start, row.now)
    due, missed = _chosen(one, found[-MOST_LOOKED_AT:], row.now)
    missed += max(len(found) - MOST_LOOKED_AT, 0) + one.count(row.last_at, start)
    if not due:
        is_ours = missed > 0 and kept.move_schedule(row, row.now, missed=missed)
        return TickReport(0, _told(one, missed) if is_ours else 0)
    return _made(one, kept, row, due, missed)


def _made(
    one: Declared,
    kept: ScheduleStore,
    row: StoredSchedule,
    due: Sequence[datetime],
    missed: int,
) -> TickReport:
    """Make the calls that are due, until another tick makes one of them."""
    for number, at in enumerate(due):
        if not _enqueue(one, kept, row, at, 0 if number else missed):
            return TickReport(number, missed if number else 0)
        row = replace(row, version=row.version + 1)
    return TickReport(len(due), missed)


def _told(one: Declared, missed: int) -> int:
    """Tell of moments for which no call is made."""
    if missed:
        least = "at least " if missed >= MOST_COUNTED else ""
        logger.warning(
            "The schedule %s has missed %s%s moments.", one.key, least, missed
        )
        signals.schedule_missed.send_robust(
            sender=one.definition.path, schedule=one.key, count=missed
        )
    return missed


def _chosen(
    one: Declared, found: Sequence[datetime], now: datetime
) -> tuple[list[datetime], int]:
    """The moments for which a call is made, and the number of those for which none is.

    With "all" the next tick makes those that are left.
    """
    if one.schedule.catch_up == "all":
        return list(found[:MOST_A_TICK]), 0
    due = list(found[-1:])
    if one.schedule.catch_up == "none":
        due = [at for at in due if at > now - GRACE]
    return due, len(found) - len(due)


def _opened(one: Declared) -> tuple[ScheduleStore, StoredSchedule]:
    """Where a schedule is kept, and its row, which the first tick makes."""
    kept = kept_in(one.alias, f"The schedule {one.key}")
    row = kept.open_schedule(
        one.key, task=one.definition.path, schedule=one.text, enabled=one.is_enabled
    )
    return kept, row


def _enqueue(
    one: Declared, kept: ScheduleStore, row: StoredSchedule, at: datetime, missed: int
) -> bool:
    """Move the row on to `at` and enqueue its call; False if another tick did it."""
    message = message_of(one, at, row.now)
    if not is_relational(one.alias):
        leave(message, one.alias)
        failpoints.reached("tick.sent")
        moved = kept.move_schedule(row, at, missed=missed, is_enqueued=True)
    else:
        with transaction.atomic(using=one.alias):
            moved = kept.move_schedule(row, at, missed=missed, is_enqueued=True)
            if moved:
                failpoints.reached("tick.moved")
                leave(message, one.alias)
    if moved:
        failpoints.reached("tick.committed")
        _told(one, missed)
    return moved


def leave(message: Message, alias: str) -> None:
    """Put `message` into the outbox of `alias`, in the open transaction.

    Where no tables are, it is sent.
    """
    if is_relational(alias):
        with payloads.resting([message], joins=alias) as light:
            outbox.add(light, alias)
    else:
        with payloads.resting([message]) as light:
            enqueueing.send(light)
    enqueueing.announce([message])


def message_of(one: Declared, at: datetime, now: datetime) -> Message:
    """The call that is due at `at`; its name follows from key and moment."""
    key = hashlib.sha256(f"{one.key}:{at.timestamp()}".encode()).hexdigest()[:32]
    message = call_of(one, at)
    due = at + one.delay
    eta = due.timestamp() if due > now else None
    return replace(message, id=key, name=key, eta=eta)


def call_of(one: Declared, at: datetime) -> Message:
    """A call of the schedule, under a random name."""
    schedule = one.schedule
    message = enqueueing.make_message(
        one.definition,
        one.definition.options,
        tuple(schedule.args),
        {**schedule.kwargs},
    )
    moment = at.astimezone(UTC).timestamp()
    alone = schedule.overlap == "skip"
    return replace(message, occurrence=moment, schedule=one.key, alone=alone)


# Control


def enable(one: Declared) -> None:
    """Switch a schedule on. Moments that passed while it was off get no calls."""
    _switch(one, enabled=True)


def disable(one: Declared) -> None:
    """Switch a schedule off; calls that wait already still run."""
    _switch(one, enabled=False)


def _switch(one: Declared, *, enabled: bool) -> None:
    while True:
        kept, row = _opened(one)
        at = row.now if enabled else row.last_at
        if kept.move_schedule(row, at, enabled=enabled):
            return


def run_now(one: Declared) -> Message:
    """Enqueue a call now. The times of the schedule stay as they are."""
    _, row = _opened(one)
    message = call_of(one, row.now)
    if is_relational(one.alias):
        with transaction.atomic(using=one.alias):
            leave(message, one.alias)
    else:
        leave(message, one.alias)
    return message
