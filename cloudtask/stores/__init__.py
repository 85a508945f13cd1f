"""Where state rests outside the queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Protocol

from cloudtask import conf
from cloudtask.stores.run_store import RunStore


class AlreadyDone(Exception):
    """The payload was removed because its task succeeded: not an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """A call that will not be tried again by itself; `envelope` can be sent again."""

    key: str
    task: str
    queue: str
    name: str
    envelope: bytes
    arguments: str
    error: str
    traceback: str
    attempts: int
    enqueued_at: datetime
    failed_at: datetime | None = None


class Store(RunStore, Protocol):
    """One place of rest. Every implementation passes tests/stores/contract.py.

    Methods raise EnqueueUnavailable when the store can't be reached.
    """

    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        """Keep `data`; saving the same key again replaces it.

        It may share the fate of the transaction that is open on the database `joins`.
        Of no other: without it, `data` is durable when this returns.
        """
        ...

    def load_payload(self, key: str) -> bytes:
        """The data of `key`.

        Raises AlreadyDone after `finish_payload`, PayloadLost when it never was here
        or is damaged.
        """
        ...

    def finish_payload(self, key: str) -> None:
        """Remove the data and remember that its task succeeded."""
        ...

    def touch_payload(self, key: str) -> None:
        """Let the age of the data, for `prune_payloads`, begin anew."""
        ...

    def delete_payload(self, key: str) -> None:
        """Remove the data and every memory of it."""
        ...

    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        """Delete what was saved or finished longer ago; how many keys are gone."""
        ...

    def save_failed(self, failed: FailedCall) -> None:
        """Keep a failed call; the same key again replaces it."""
        ...

    def load_failed(self, key: str) -> FailedCall | None: ...

    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        """The latest failed calls, newest first, without their envelopes."""
        ...

    def delete_failed(self, key: str) -> bool:
        """Whether there was one."""
        ...

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        """The keys of calls that failed longer ago."""
        ...

    def note_start(self, key: str) -> int:
        """Note, for good, that a call begins once more although its attempts are used
        up; how often it has."""
        ...

    def prune_starts(self, older_than: timedelta, limit: int) -> int:
        """Forget starts that were noted longer ago; of how many calls."""
        ...


@lru_cache(maxsize=8)
def _made(settings: conf.Settings) -> Store:
    made: Store = conf.backend("STORE", settings.store)(settings.store)
    return made


def store() -> Store:
    """The store that CLOUDTASK["STORE"] describes; raises ConfigurationError."""
    return _made(conf.settings())
