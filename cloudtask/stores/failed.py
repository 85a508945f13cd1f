"""Defines how a store keeps failed tasks: calls that are not tried again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cloudtask.stores.pages import MOST, Page

BRIEF = 300  # characters of an error in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """A call that has failed for good. `envelope` can be sent again.

    `kind` is the import path of the error's class. Calls of a `group` failed alike: in
    the same task, with the same kind, in the same function. In a list, `envelope`,
    `arguments` and `traceback` are empty, and `error` is short.
    """

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
    kind: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedFilter:
    """Which failed calls are meant. None means all; `until` is included."""

    task: str | None = None
    kind: str | None = None
    group: str | None = None
    queue: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedGroup:
    """Failed calls that are alike; `error` is that of one of them."""

    group: str
    task: str
    kind: str
    number: int
    first_at: datetime
    last_at: datetime
    error: str


EVERY = FailedFilter()


class FailedStore(ABC):
    """A store of failed calls. Every store passes tests/stores/failed_contract.py and
    failed_pages_contract.py."""

    @abstractmethod
    def save_failed(self, failed: FailedCall) -> None:
        """Save a failed call, and replace one with the same key."""

    @abstractmethod
    def load_failed(self, key: str) -> FailedCall | None: ...

    @abstractmethod
    def page_failed(
        self, wanted: FailedFilter = EVERY, *, before: str | None = None, limit: int
    ) -> Page[FailedCall]:
        """Failed calls in brief, newest first, from the mark `before` on.

        A page may have fewer than `limit` items although more follow: `next` tells.
        Raises ValueError for a mark that no store has made.
        """

    @abstractmethod
    def count_failed(self, wanted: FailedFilter = EVERY, *, most: int = MOST) -> int:
        """The number of failed calls; counting stops at `most`."""

    @abstractmethod
    def failed_groups(
        self, wanted: FailedFilter = EVERY, *, limit: int
    ) -> list[FailedGroup]:
        """Up to `limit` groups of failed calls, the largest first."""

    def failed_by_task(self, groups: int) -> Counter[str]:
        """The number of failed calls of each task in the largest `groups`."""
        numbers = Counter[str]()
        for group in self.failed_groups(limit=groups):
            numbers[group.task] += group.number
        return numbers

    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        """The latest failed calls in brief, newest first."""
        wanted, mark = FailedFilter(task=task), None
        found: list[FailedCall] = []
        while len(found) < limit:
            page = self.page_failed(wanted, before=mark, limit=limit - len(found))
            found += page.items
            if (mark := page.next) is None:
                break
        return found

    @abstractmethod
    def find_failed(self, start: str, *, limit: int) -> list[str]:
        """Up to `limit` keys that begin with `start`, in order."""

    @abstractmethod
    def delete_failed(self, key: str) -> bool:
        """Delete a failed call; returns whether there was one."""

    @abstractmethod
    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        """Keys of up to `limit` calls that failed longer ago."""
