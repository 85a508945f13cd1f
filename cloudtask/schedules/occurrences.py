"""The moments at which a schedule is due.

Cron expressions follow Debian's rule for changes of the clock. A fixed time that the
clock skips is due once, when the clock has been put forward. A fixed time that comes
twice is due once, the first time. An expression whose minute or hour begins with `*`
follows real time: it is due in both passes of a repeated hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cloudtask.exceptions import ConfigurationError

SHORTEST = timedelta(minutes=1)  # a relay by Cloud Scheduler ticks once a minute
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIELDS = 5
BEFORE = timedelta(hours=3)  # longer than any hour that is repeated

Every = str | timedelta


def check(every: Every, zone: ZoneInfo) -> None:
    """Raise ConfigurationError for what is no schedule."""
    if isinstance(every, timedelta):
        if every < SHORTEST:
            raise ConfigurationError(
                f"A schedule must be due once a minute at most, not each {every}."
            )
        return
    if not isinstance(every, str):
        raise ConfigurationError(
            "A schedule is a cron expression or a timedelta, not "
            f"{type(every).__name__}."
        )
    if len(every.split()) != FIELDS:
        raise ConfigurationError(
            f"The schedule {every!r} must have five fields: minute, hour, day of the "
            "month, month and day of the week."
        )
    try:
        next(_cron(every, datetime(2026, 1, 1, tzinfo=UTC), zone))
    except (ValueError, StopIteration) as error:
        reason = str(error) or "it is never due"
        raise ConfigurationError(
            f"The schedule {every!r} is wrong: {reason}."
        ) from error


def occurrences(
    every: Every, zone: ZoneInfo, after: datetime, until: datetime
) -> Iterator[datetime]:
    """The moments in (after, until], in UTC, each later than the one before."""
    last = after
    found = (
        _interval(every, after)
        if isinstance(every, timedelta)
        else _cron(every, after, zone)
    )
    for moment in found:
        if moment > until:
            return
        if moment > last:
            last = moment
            yield moment


def _interval(every: timedelta, after: datetime) -> Iterator[datetime]:
    """Multiples of `every` since the Unix epoch."""
    moment = EPOCH + ((after - EPOCH) // every) * every
    while True:
        moment += every
        yield moment


def _cron(text: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    # From earlier on, since a start inside a repeated hour is misread. `occurrences`
    # drops what is too early.
    for moment in _simulation(text, (after - BEFORE).astimezone(zone)):
        yield moment.astimezone(UTC)


def _simulation(text: str, start: datetime) -> Iterator[datetime]:
    """The walk of cronsim; raises ValueError for a wrong expression."""
    cronsim: Any
    try:
        import cronsim
    except ImportError as error:
        raise ConfigurationError(
            "Cron expressions need the package cronsim: run `pip install "
            "'django-cloudtask-defer[schedule]'`, or use a timedelta."
        ) from error
    try:
        found: Iterator[datetime] = cronsim.CronSim(text, start)
    except cronsim.CronSimError as error:
        raise ValueError(str(error)) from error
    return found
