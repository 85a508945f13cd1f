"""Defines what a store keeps of the results of calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from cloudtask.envelope import Place
from cloudtask.stores.pages import Page


class ResultState(Enum):
    """How a call ended. The values are those of `django.tasks`."""

    SUCCEEDED = "SUCCESSFUL"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """The result of a call: a sealed value, or the text of an error.

    `value` is None after a failure, and once the result has expired.
    """

    id: str
    task: str
    queue: str
    state: ResultState
    value: bytes | None = field(default=None, repr=False)
    error: str = field(default="", repr=False)
    traceback: str = field(default="", repr=False)
    enqueued_at: datetime
    finished_at: datetime | None = None
    expires_at: datetime | None = None


def result_place(key: str) -> Place:
    """The place for which the value of the result `key` is sealed."""
    return "result", key, "value"


class ResultStore(ABC):
    """Results of calls, each under the id of its call.

    A success stays: neither a failure nor a second success replaces it. A success
    replaces a failure, since a failed task may be retried.
    """

    @abstractmethod
    def save_result(self, result: StoredResult, keep: timedelta) -> None:
        """Save `result`, which expires `keep` from now.

        The database's own table is written in the open transaction.
        """

    @abstractmethod
    def load_result(self, key: str) -> StoredResult | None:
        """The result of a call, without its value once it has expired."""

    @abstractmethod
    def page_results(
        self,
        *,
        states: Collection[ResultState] = tuple(ResultState),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[StoredResult]:
        """Results in brief, without value, error and traceback: the latest enqueued
        first, from the mark `before` on. Raises ValueError for a wrong mark.

        A page may have fewer than `limit` items although more follow: `next` tells.
        """

    @abstractmethod
    def prune_results(self, forget_after: timedelta, limit: int) -> int:
        """Remove the values of up to `limit` expired results; returns their number.

        The records of those that expired more than `forget_after` ago are deleted.
        """
