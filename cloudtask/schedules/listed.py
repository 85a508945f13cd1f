"""Lists schedules: those that the running code declares, and how far each one is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtask import clock
from cloudtask.schedules.declared import Declared, declared
from cloudtask.schedules.ticking import rows_of
from cloudtask.stores.database.records import aware

AHEAD = timedelta(days=400)  # in which the next moment is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSchedule:
    """A schedule. `next_at` is None while it is disabled, and if it is not due within
    AHEAD; `enqueued_at` is None before its first call. `missed` counts moments for
    which no call was made."""

    key: str
    task: str
    schedule: str
    is_enabled: bool
    next_at: datetime | None
    enqueued_at: datetime | None
    missed: int


def listed() -> list[ListedSchedule]:
    """The declared schedules by key; one query for each database that has some."""
    known = declared()
    rows = _rows(known.values())
    return [_listed(one, rows.get(key)) for key, one in known.items()]


def _rows(known: Iterable[Declared]) -> dict[str, Any]:
    keys = defaultdict[str, list[str]](list)
    for one in known:
        keys[one.definition.options.database].append(one.key)
    return {
        row.key: row
        for alias, some in keys.items()
        for row in rows_of(alias).filter(key__in=some)
    }


def _listed(one: Declared, row: Any) -> ListedSchedule:
    is_enabled = one.is_enabled if row is None else row.enabled
    now = datetime.fromtimestamp(clock.now(), UTC)
    return ListedSchedule(
        key=one.key,
        task=one.definition.path,
        schedule=one.text,
        is_enabled=is_enabled,
        next_at=one.next_after(now, now + AHEAD) if is_enabled else None,
        enqueued_at=None if row is None else aware(row.enqueued_at, row),
        missed=0 if row is None else row.missed,
    )
