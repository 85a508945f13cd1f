"""Defines the store: state that must outlive a process and is not in the queue."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cloudtask import conf
from cloudtask.stores.failed import FailedCall, FailedStore
from cloudtask.stores.groups import GroupStore
from cloudtask.stores.marks import MarkStore
from cloudtask.stores.results import ResultStore
from cloudtask.stores.runs import RunStore
from cloudtask.stores.schedules import ScheduleStore
from cloudtask.stores.shards import ShardStore

__all__ = [
    "AlreadyDone",
    "CallCancelled",
    "CallSkipped",
    "FailedCall",
    "Store",
    "Upkeep",
    "note_upkeep",
    "store",
]

logger = logging.getLogger("cloudtask")


class AlreadyDone(Exception):
    """The payload was removed because its task has succeeded. This is not an error."""


class CallCancelled(AlreadyDone):
    """The call was cancelled before it began. This is not an error."""


class CallSkipped(AlreadyDone):
    """An earlier call of the same schedule was running. This is not an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """When a regular job of the library last ended well, and what it did.

    `age` is measured with the store's clock.
    """

    job: str
    ran_at: datetime
    age: timedelta
    report: str


class Store(
    RunStore,
    ShardStore,
    FailedStore,
    ResultStore,
    GroupStore,
    MarkStore,
    ScheduleStore,
):
    """Payloads, failed calls, results, groups, marks, schedules, and the records of
    iterations.

    Every implementation passes tests/stores/*_contract.py. All methods raise
    EnqueueUnavailable if the store can't be reached.
    """

    @abstractmethod
    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        """Save `data` under `key`, and replace earlier data.

        If `joins` is the store's database, `data` is saved when the open transaction of
        that database commits. In all other cases it is durable when this returns.
        """

    @abstractmethod
    def load_payload(self, key: str) -> bytes:
        """The data of `key`.

        Raises AlreadyDone after `finish_payload`, and PayloadLost if the data was never
        saved or is damaged.
        """

    @abstractmethod
    def finish_payload(self, key: str) -> None:
        """Delete the data, and remember that its task has succeeded."""

    @abstractmethod
    def touch_payload(self, key: str) -> None:
        """Reset the age of the data, which `prune_payloads` checks."""

    @abstractmethod
    def delete_payload(self, key: str) -> None:
        """Delete the data, and the record that its task has succeeded."""

    @abstractmethod
    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        """Delete up to `limit` payloads that were saved or finished longer ago.

        Returns their number.
        """

    @abstractmethod
    def note_start(self, key: str) -> int:
        """Count a start of a call whose attempts are used up.

        Returns the number of such starts, including this one. The count is durable.
        """

    @abstractmethod
    def prune_starts(self, older_than: timedelta, limit: int) -> int:
        """Delete the counts of up to `limit` calls that were counted longer ago.

        Returns the number of calls.
        """

    @abstractmethod
    def unreadable(self, limit: int) -> list[str]:
        """A sentence about each record that can't be read, among up to `limit` of each
        kind."""

    @abstractmethod
    def note_upkeep(self, job: str, report: str) -> None:
        """Record that a regular job has ended well just now."""

    @abstractmethod
    def upkeep(self) -> dict[str, Upkeep]:
        """The last run of each regular job that has ever run, by its name."""


@lru_cache(maxsize=8)
def _made(settings: conf.Settings) -> Store:
    made: Store = conf.backend("STORE", settings.store)(settings.store)
    return made


def store() -> Store:
    """The store that CLOUDTASK["STORE"] describes; raises ConfigurationError."""
    return _made(conf.settings())


def note_upkeep(job: str, report: str) -> None:
    """Record that a regular job has ended well; never raises, since it has."""
    try:
        store().note_upkeep(job, report)
    except Exception as error:  # noqa: BLE001  the note is not worth the job
        logger.warning("That %s ran could not be noted: %s", job, error)
