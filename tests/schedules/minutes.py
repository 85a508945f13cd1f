"""A plain search of the moments of a cron expression: minute by minute.

It knows the rule of Debian's cron in the terms of its documentation, and shares no code
with the library. Only `*`, `*/n`, numbers, lists and ranges.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@cache
def _values(field: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("*", "", "") if span == "*" else span.partition("-")
        start = low if first == "*" else int(first)
        end = high if first == "*" else int(last or first)
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def _matches(text: str, wall: datetime) -> bool:
    fields = text.split()
    sets = [_values(f, *span) for f, span in zip(fields, RANGES, strict=True)]
    weekday = (wall.weekday() + 1) % 7
    days = wall.day in sets[2], weekday in sets[4]
    is_day = any(days) if "*" not in (fields[2][0], fields[4][0]) else all(days)
    is_time = wall.minute in sets[0] and wall.hour in sets[1]
    return is_time and is_day and wall.month in sets[3]


def search(
    text: str, zone: ZoneInfo, after: datetime, until: datetime
) -> Iterator[datetime]:
    minute, hour, *_ = text.split()
    follows_real_time = minute.startswith("*") or hour.startswith("*")
    instant = after.astimezone(UTC).replace(second=0, microsecond=0) + MINUTE
    seen_walls: set[datetime] = set()
    previous = (instant - MINUTE).astimezone(zone).replace(tzinfo=None, fold=0)
    while instant <= until:
        wall = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        due = _matches(text, wall)
        if not follows_real_time:
            due = due and wall not in seen_walls
            if due:
                seen_walls.add(wall)
            skipped = previous + MINUTE
            while skipped < wall:  # the clock was put forward
                due = due or _matches(text, skipped)
                skipped += MINUTE
        if due:
            yield instant
        previous = wall
        instant += MINUTE
