"""Lists schedules: those that the running code declares, and how far each one is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cloudtask import clock
from cloudtask.schedules.declared import Declared, declared
from cloudtask.schedules.ticking import kept_in
from cloudtask.stores.schedules import StoredSchedule

AHEAD = timedelta(days=400)  # in which the next moment is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSchedule:
    """A schedule. `next_at` is None while it is disabled, and if it is not due within
    AHEAD; `enqueued_at` is None before its first call. `missed` counts moments for
    which no call was made, `skipped` calls that did not begin because an earlier one
    was running. `error` tells of a value of its record that can't be read."""

    key: str
    task: str
    schedule: str
    is_enabled: bool
    next_at: datetime | None
    enqueued_at: datetime | None
    missed: int
    skipped: int
    error: str = ""


def listed() -> list[ListedSchedule]:
    """The declared schedules by key; one query for each database that has some."""
    known = declared()
    rows = _rows(known.values())
    return [_listed(one, rows.get(key)) for key, one in known.items()]


def _rows(known: Iterable[Declared]) -> dict[str, StoredSchedule]:
    keys = defaultdict[str, list[str]](list)
    for one in known:
        keys[one.alias].append(one.key)
    return {
        key: row
        for alias, some in keys.items()
        for key, row in kept_in(alias, "A schedule").load_schedules(some).items()
    }


def _listed(one: Declared, row: StoredSchedule | None) -> ListedSchedule:
    is_enabled = one.is_enabled if row is None else row.enabled
    now = datetime.fromtimestamp(clock.now(), UTC)
    return ListedSchedule(
        key=one.key,
        task=one.definition.path,
        schedule=one.text,
        is_enabled=is_enabled,
        next_at=one.next_after(now, now + AHEAD) if is_enabled else None,
        enqueued_at=None if row is None else row.enqueued_at,
        missed=0 if row is None else row.missed,
        skipped=0 if row is None else row.skipped,
        error="" if row is None else row.error,
    )
