"""Keeps schedules in Datastore: one entity for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cloudtask.stores.datastore.access import Access, Path, Row, Try
from cloudtask.stores.datastore.entities import moment
from cloudtask.stores.schedules import ScheduleStore, StoredSchedule

SCHEDULE = "CloudtaskSchedule"
logger = logging.getLogger("cloudtask.security")

Values = Mapping[str, Any]


class DatastoreSchedules(Access, ScheduleStore):
    """The part of DatastoreStore that keeps schedules."""

    def open_schedule(
        self, key: str, *, task: str, schedule: str, enabled: bool
    ) -> StoredSchedule:
        now, what = self.now(), f"Opening schedule {key}"
        [row] = self.get(what, _path(key))
        made = _new(now, task=task, schedule=schedule, enabled=enabled)
        if row is not None and row.misfit:
            logger.error("Schedule %s begins anew: %s", key, row.why)
            self.put(what, [_row(_path(key), made)])
            return _stored(key, made, now)
        if row is None:
            self.insert(what, [_row(_path(key), made)])
            [row] = self.get(what, _path(key))
        return _stored(key, row.values if row else made, now)

    def load_schedules(self, keys: Collection[str]) -> dict[str, StoredSchedule]:
        now = self.now()
        rows = self.get("Loading schedules", *map(_path, keys))
        found = [row for row in rows if row is not None]
        return {
            row.path[-1]: replace(_stored(row.path[-1], row.values, now), error=row.why)
            for row in found
        }

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
        changed: dict[str, Any] = {"last_at": at, "version": seen.version + 1}
        if schedule is not None:
            changed["schedule"] = schedule
        if enabled is not None:
            changed["enabled"] = enabled
        if is_enqueued:
            changed["enqueued_at"] = self.now()

        def move(values: Values) -> tuple[bool, Values | None]:
            if values["version"] != seen.version:
                return False, None
            return True, {**changed, "missed": values["missed"] + missed}

        what = f"Moving schedule {seen.key} on"
        return self._changed(what, seen.key, move)

    def note_tick(self, key: str) -> None:
        now = self.now()
        what = f"Noting the tick of schedule {key}"
        self._changed(what, key, lambda values: (True, {"seen_at": now}))

    def since_tick(self) -> timedelta | None:
        what = "Looking for the last tick"
        rows = self.query(what, SCHEDULE, order="-seen_at", limit=1)
        return self.now() - moment(rows[0].values["seen_at"]) if rows else None

    def begin_occurrence(self, key: str, call: str, longest: timedelta) -> bool:
        now = self.now()
        ours = {"running": call, "running_until": now + longest}

        def begin(values: Values) -> tuple[bool, Values]:
            is_over = values["running_until"] and moment(values["running_until"]) < now
            if values["running"] in ("", call) or is_over:
                return True, ours
            return False, {"skipped": values["skipped"] + 1}

        what = f"Beginning call {call} of schedule {key}"
        return self._changed(what, key, begin, new=_new(now))

    def end_occurrence(self, key: str, call: str) -> None:
        def end(values: Values) -> tuple[bool, Values | None]:
            is_ours = values["running"] == call
            return is_ours, {"running": "", "running_until": None} if is_ours else None

        self._changed(f"Ending call {call} of schedule {key}", key, end)

    def _changed(
        self,
        what: str,
        key: str,
        change: Callable[[Values], tuple[bool, Values | None]],
        *,
        new: Values | None = None,
    ) -> bool:
        """Change the values of a row in a transaction; `change` also says the result.

        A row that does not exist is made with `new`, or left; then this is False.
        """

        def work(attempt: Try) -> bool:
            row = attempt.get(_path(key))
            if row is None:
                if new is None:
                    return False
                row = _row(_path(key), new)
            result, changed = change(row.values)
            if changed is not None:
                attempt.put(replace(row, values={**row.values, **changed}))
            return result

        return self.transact(what, work)

    def prune_schedules(self, older_than: timedelta, limit: int) -> int:
        what = "Pruning schedules"
        old = [("seen_at", "<", self.now() - older_than)]
        rows = self.query(what, SCHEDULE, old, projection=["__key__"], limit=limit)
        self.delete(what, [row.path for row in rows])
        return len(rows)


def _path(key: str) -> Path:
    return (SCHEDULE, key)


def _row(path: Path, values: Values) -> Row:
    return Row(path, values, ("seen_at",))


def _new(
    now: datetime, *, task: str = "", schedule: str = "", enabled: bool = True
) -> Values:
    counts = dict.fromkeys(("version", "missed", "skipped"), 0)
    never: dict[str, Any] = {"enqueued_at": None, "running": "", "running_until": None}
    facts = {"task": task, "schedule": schedule, "enabled": enabled}
    return {**counts, **never, **facts, "last_at": now, "seen_at": now}


def _stored(key: str, values: Values, now: datetime) -> StoredSchedule:
    enqueued_at = values["enqueued_at"]
    return StoredSchedule(
        key=key,
        task=values["task"],
        schedule=values["schedule"],
        enabled=values["enabled"],
        last_at=moment(values["last_at"]),
        version=values["version"],
        enqueued_at=None if enqueued_at is None else moment(enqueued_at),
        missed=values["missed"],
        skipped=values["skipped"],
        now=now,
    )
