"""The tick: enqueues each call that is due, once, however many relays tick.

A row holds the latest moment that was dealt with. The tick that moves it on, by
compare-and-set, puts the call into the outbox in the same transaction.

    due        the row is behind                       the next tick does it
    moved      the row and the outbox row, or neither  a relay sends the row
    sent       the call is in the queue                nothing is left to do
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import F, QuerySet

from cloudtask import failpoints
from cloudtask.clock import database_now, database_time
from cloudtask.discretion import said
from cloudtask.exceptions import CloudTaskError
from cloudtask.message import Message
from cloudtask.schedules.declared import Declared, declared
from cloudtask.sending import enqueueing, outbox, payloads
from cloudtask.sending.limits import check_tables
from cloudtask.stores.database.records import aware

if TYPE_CHECKING:
    from cloudtask.models import ScheduleRow

logger = logging.getLogger("cloudtask")

USE_A_CRON_JOB = "Let a cron job call a view that defers the task."
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
    schedule fails: its row has the error.
    """
    report, failures = TickReport(), []
    known = declared()
    for alias in sorted({one.definition.options.database for one in known.values()}):
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


def rows_of(alias: str) -> QuerySet[ScheduleRow]:
    from cloudtask.models import ScheduleRow

    rows: QuerySet[ScheduleRow] = ScheduleRow.objects.using(alias)
    return rows


def _note_silence(alias: str) -> None:
    """Log an error if no relay has ticked for SILENCE."""
    try:
        rows = rows_of(alias).annotate(db_now=database_now()).order_by("-seen_at")
        latest: Any = rows.first()
    except Exception:  # noqa: BLE001  each schedule below reports the same error
        return
    if latest is None:
        return
    silence = aware(latest.db_now, latest) - aware(latest.seen_at, latest)
    if silence > SILENCE:
        logger.error(
            "No relay has looked at the schedules in the database %r for %d minutes. "
            "Run the relay once a minute.",
            alias,
            silence // timedelta(minutes=1),
        )


def _tick(one: Declared) -> TickReport:
    alias = one.definition.options.database
    check_tables(alias, f"The schedule {one.key}", "a schedule", USE_A_CRON_JOB)
    row, now = _row(one)
    if row.schedule != one.text:
        # Two versions may tick in turn: neither repeats what the other has done.
        after = max(aware(row.last_at, row), now - GRACE)
        _move(alias, row, after, schedule=one.text)
        row, now = _row(one)
    rows_of(alias).filter(key=one.key).update(seen_at=database_now())
    if not row.enabled:
        return TickReport()
    last = aware(row.last_at, row)
    start = max(last, now - one.window)
    found = one.between(start, now)[-MOST_LOOKED_AT:]
    due, missed = _chosen(one, found, now)
    if not due and missed:
        _move(alias, row, now, missed=F("missed") + missed)
    enqueued = 0
    for at in due:
        if not _enqueue(one, row, at, now, 0 if enqueued else missed):
            break  # another tick has it
        enqueued += 1
        row.version += 1
    return TickReport(enqueued, missed if enqueued or not due else 0)


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


def _row(one: Declared) -> tuple[ScheduleRow, datetime]:
    """The row of a schedule, made by its first tick, and the database's time."""
    alias = one.definition.options.database
    rows = rows_of(alias)
    annotated = rows.filter(key=one.key).annotate(db_now=database_now())
    row: Any = annotated.first()
    if row is None:
        made = rows.model(
            key=one.key,
            task=one.definition.path,
            schedule=one.text,
            last_at=database_now(),  # the past of a new schedule is never due
            seen_at=database_now(),
            enabled=one.schedule.enabled,
        )
        rows.bulk_create([made], ignore_conflicts=True)
        row = annotated.get()
    return row, aware(row.db_now, row)


def _move(alias: str, row: ScheduleRow, at: datetime, **values: Any) -> bool:
    """Move the row on to `at`, unless another tick has changed it meanwhile."""
    untouched = rows_of(alias).filter(key=row.key, version=row.version)
    values |= {"last_at": database_time(at), "version": F("version") + 1}
    return bool(untouched.update(**values))


def _enqueue(
    one: Declared, row: ScheduleRow, at: datetime, now: datetime, missed: int
) -> bool:
    """Move the row on to `at` and enqueue its call, together; False if another did."""
    alias = one.definition.options.database
    message = message_of(one, at, now)
    untouched = rows_of(alias).filter(key=one.key, version=row.version, enabled=True)
    with transaction.atomic(using=alias):
        moved = untouched.update(
            last_at=database_time(at),
            version=F("version") + 1,
            enqueued_at=database_now(),
            missed=F("missed") + missed,
        )
        if not moved:
            return False
        failpoints.reached("tick.moved")
        leave(message, alias)
    failpoints.reached("tick.committed")
    if missed:
        logger.warning("The schedule %s has missed %s moments.", one.key, missed)
    return True


def leave(message: Message, alias: str) -> None:
    """Put `message` into the outbox of `alias`, in the open transaction."""
    with payloads.resting([message], joins=alias) as light:
        outbox.add(light, alias)
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
    return replace(message, occurrence=moment, schedule=one.key)


# Control


def enable(one: Declared) -> None:
    """Switch a schedule on. Moments that passed while it was off get no calls."""
    row, now = _row(one)
    _changed(one, row, now, enabled=True)


def disable(one: Declared) -> None:
    """Switch a schedule off; calls that wait already still run."""
    row, _ = _row(one)
    _changed(one, row, aware(row.last_at, row), enabled=False)


def _changed(one: Declared, row: ScheduleRow, at: datetime, **values: Any) -> None:
    alias = one.definition.options.database
    while not _move(alias, row, at, **values):
        row, _ = _row(one)


def run_now(one: Declared) -> Message:
    """Enqueue a call now. The times of the schedule stay as they are."""
    _, now = _row(one)
    alias = one.definition.options.database
    message = call_of(one, now)
    with transaction.atomic(using=alias):
        leave(message, alias)
    return message


def prune(alias: str, older_than: timedelta) -> int:
    """Delete rows of schedules that no code has declared for longer; how many."""
    old = rows_of(alias).filter(seen_at__lt=database_now() - older_than)
    return old.delete()[0]
