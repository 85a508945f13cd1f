"""Keeps schedules in a table of this app."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import F, Q, QuerySet

from cloudtask.clock import database_now as now
from cloudtask.clock import database_time
from cloudtask.stores.database.fitting import converted, fetched, mend
from cloudtask.stores.database.records import aware
from cloudtask.stores.schedules import ScheduleStore, StoredSchedule
from cloudtask.stores.transactions import Database, delete_by_key, inserted

if TYPE_CHECKING:
    from cloudtask.models import ScheduleRow

logger = logging.getLogger("cloudtask.security")


class DatabaseSchedules(Database, ScheduleStore):
    """The schedules in one database.

    A schedule has its row in the database of its task, so that the row moves on
    together with the row of the outbox.
    """

    def _schedules(self) -> QuerySet[ScheduleRow]:
        from cloudtask.models import ScheduleRow

        return ScheduleRow.objects.using(self.database)

    def open_schedule(
        self, key: str, *, task: str, schedule: str, enabled: bool
    ) -> StoredSchedule:
        with self.reading(f"Opening schedule {key}"):
            rows = fetched(self._annotated().filter(key=key))
            if not rows:
                self._insert(key, task=task, schedule=schedule, enabled=enabled)
            elif why := mend(rows[0]):
                logger.error("Schedule %s begins anew: %s", key, why)
                self._schedules().filter(key=key).delete()
                self._insert(key, task=task, schedule=schedule, enabled=enabled)
            else:
                return _stored(rows[0])
            return _stored(self._annotated().get(key=key))

    def _annotated(self) -> QuerySet[Any]:
        return self._schedules().annotate(db_now=now())

    def _insert(self, key: str, **values: Any) -> None:
        row = self._schedules().model(key=key, last_at=now(), seen_at=now(), **values)
        inserted(row, self.database)

    def load_schedules(self, keys: Collection[str]) -> dict[str, StoredSchedule]:
        with self.reading("Loading schedules"):
            rows = fetched(self._annotated().filter(key__in=list(keys)))
        return {row.key: _stored(row) for row in rows}

    def move_schedule(
        self,
        seen: StoredSchedule,
        at: datetime,
        *,
        schedule: str | None = None,
        enabled: bool | None = None,
        missed: int = 0,
        is_enqueued: bool = False,
    ) -> bool:
        values: dict[str, Any] = {
            "last_at": database_time(at),
            "version": F("version") + 1,
            "missed": F("missed") + missed,
        }
        if schedule is not None:
            values["schedule"] = schedule
        if enabled is not None:
            values["enabled"] = enabled
        if is_enqueued:
            values["enqueued_at"] = now()
        untouched = self._schedules().filter(key=seen.key, version=seen.version)
        with self.reading(f"Moving schedule {seen.key} on"):
            return bool(untouched.update(**values))

    def note_tick(self, key: str) -> None:
        with self.reading(f"Noting the tick of schedule {key}"):
            self._schedules().filter(key=key).update(seen_at=now())

    def since_tick(self) -> timedelta | None:
        with self.reading("Looking for the last tick"):
            latest = self._annotated().order_by("-seen_at")
            row: Any = converted(latest.first, lambda: None)
        if row is None or mend(row):
            return None  # none, or one that begins anew
        since: timedelta = aware(row.db_now, row) - aware(row.seen_at, row)
        return since

    def begin_occurrence(self, key: str, call: str, longest: timedelta) -> bool:
        with self.reading(f"Beginning call {call} of schedule {key}"):
            if self._reserved(key, call, longest):
                return True
            row = self._schedules().filter(key=key)
            if row.update(skipped=F("skipped") + 1):
                return False
            # No tick has made the row, for example in a test run of virtual time.
            self._insert(key, task="", schedule="")
            return self._reserved(key, call, longest)

    def _reserved(self, key: str, call: str, longest: timedelta) -> bool:
        is_free = Q(running="") | Q(running=call) | Q(running_until__lt=now())
        free = self._schedules().filter(is_free, key=key)
        return bool(free.update(running=call, running_until=now() + longest))

    def end_occurrence(self, key: str, call: str) -> None:
        with self.reading(f"Ending call {call} of schedule {key}"):
            ours = self._schedules().filter(key=key, running=call)
            ours.update(running="", running_until=None)

    def prune_schedules(self, older_than: timedelta, limit: int) -> int:
        with self.reading("Pruning schedules"):
            old = self._schedules().filter(seen_at__lt=now() - older_than)
            keys = list(old.values_list("pk", flat=True)[:limit])
            return delete_by_key(self._schedules(), keys)


class SchedulesIn(DatabaseSchedules):
    """The schedules in the database `alias`."""

    def __init__(self, alias: str) -> None:
        self.database = alias


def _stored(row: Any) -> StoredSchedule:
    why = mend(row)
    return StoredSchedule(
        key=row.key,
        task=row.task,
        schedule=row.schedule,
        enabled=row.enabled,
        last_at=aware(row.last_at, row),
        version=row.version,
        enqueued_at=aware(row.enqueued_at, row),
        missed=row.missed,
        skipped=row.skipped,
        now=aware(row.db_now, row),
        error=why,
    )
