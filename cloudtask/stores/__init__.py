"""The store: state that outlives a process and is not in the queue."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from cloudtask import conf
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


class Store(RunStore, ShardStore):
    """Payloads, failed calls, and the records of iterations.

    Every implementation passes tests/stores/*_contract.py. All methods raise
    EnqueueUnavailable if the store can't be reached.
    """

    @abstractmethod
    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        """Save `data` under `key`, in place of what was saved there.

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
        """Reset the age of the data that `prune_payloads` looks at."""

    @abstractmethod
    def delete_payload(self, key: str) -> None:
        """Delete the data, and what is remembered of it."""

    @abstractmethod
    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        """Delete up to `limit` payloads that were saved or finished longer ago.

        Returns how many.
        """

    @abstractmethod
    def save_failed(self, failed: FailedCall) -> None:
        """Save a failed call, in place of one with the same key."""

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
        """Count that a call begins although its attempts are used up.

        Returns how often it has, this time included. The count is durable then.
        """

    @abstractmethod
    def prune_starts(self, older_than: timedelta, limit: int) -> int:
        """Forget starts of up to `limit` calls that were counted longer ago.

        Returns of how many calls.
        """


@lru_cache(maxsize=8)
def _made(settings: conf.Settings) -> Store:
    made: Store = conf.backend("STORE", settings.store)(settings.store)
    return made


def store() -> Store:
    """The store that CLOUDTASK["STORE"] describes; raises ConfigurationError."""
    return _made(conf.settings())
