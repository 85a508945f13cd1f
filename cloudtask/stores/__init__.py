"""Defines the store: state that must outlive a process and is not in the queue."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from cloudtask import conf
from cloudtask.stores.results import ResultStore
from cloudtask.stores.runs import RunStore
from cloudtask.stores.shards import ShardStore


class AlreadyDone(Exception):
    """The payload was removed because its task has succeeded. This is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """A call that has failed for good. `envelope` can be sent again."""

    key: str
    task: str
    queue: str
    name: str
    envelope: bytes = field(repr=False)
    arguments: str = field(repr=False)
    error: str
    traceback: str = field(repr=False)
    attempts: int
    enqueued_at: datetime
    failed_at: datetime | None = None


class Store(RunStore, ShardStore, ResultStore):
    """Payloads, failed calls, results, and the records of iterations.

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
    def save_failed(self, failed: FailedCall) -> None:
        """Save a failed call, and replace one with the same key."""

    @abstractmethod
    def load_failed(self, key: str) -> FailedCall | None: ...

    @abstractmethod
    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        """The latest failed calls, newest first, without their envelopes."""

    @abstractmethod
    def delete_failed(self, key: str) -> bool:
        """Delete a failed call; returns whether there was one."""

    @abstractmethod
    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        """Keys of up to `limit` calls that failed longer ago."""

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


@lru_cache(maxsize=8)
def _made(settings: conf.Settings) -> Store:
    made: Store = conf.backend("STORE", settings.store)(settings.store)
    return made


def store() -> Store:
    """The store that CLOUDTASK["STORE"] describes; raises ConfigurationError."""
    return _made(conf.settings())
