"""Defines what a store keeps of schedules: how far each one is, and which call runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """How far a schedule is. `now` is the time of the store when this was read.

    `last_at` is the latest moment that was dealt with. `version` grows with each
    change, so that one of several ticks makes it. `missed` counts moments without a
    call, `skipped` calls that did not begin because an earlier one was running. `error`
    tells of a value that can't be read; a neutral one is in its place.
    """

    key: str
    task: str
    schedule: str
    enabled: bool
    last_at: datetime
    version: int
    enqueued_at: datetime | None
    missed: int
    skipped: int
    now: datetime
    error: str = ""


class ScheduleStore(ABC):
    """One row for each schedule that was ever ticked.

    All methods raise EnqueueUnavailable if the store can't be reached.
    """

    @abstractmethod
    def open_schedule(
        self, key: str, *, task: str, schedule: str, enabled: bool
    ) -> StoredSchedule:
        """The row of a schedule. If there is none, one is made, whose past is over.

        So it is with a row that has a value which can't be read.
        """

    @abstractmethod
    def load_schedules(self, keys: Collection[str]) -> dict[str, StoredSchedule]:
        """The rows that exist, by key."""

    @abstractmethod
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
        """Move a row on to `at`; returns False if it has changed since it was `seen`.

        A store in a database does it in its open transaction, if there is one.
        """

    @abstractmethod
    def note_tick(self, key: str) -> None:
        """Record that a tick has looked at the schedule just now."""

    @abstractmethod
    def since_tick(self) -> timedelta | None:
        """The time since a tick has looked at any schedule; None if none ever has."""

    @abstractmethod
    def begin_occurrence(self, key: str, call: str, longest: timedelta) -> bool:
        """Reserve a schedule for a call for up to `longest`.

        Returns False, and counts the call as skipped, while another call has it.
        """

    @abstractmethod
    def end_occurrence(self, key: str, call: str) -> None:
        """Release a schedule, if `call` has it."""

    @abstractmethod
    def prune_schedules(self, older_than: timedelta, limit: int) -> int:
        """Delete up to `limit` rows that no tick has looked at for longer; how many."""
