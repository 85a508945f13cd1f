"""Defines the marks of calls that can be cancelled: begun, cancelled, or both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta


class MarkStore(ABC):
    """One mark for each call. A delivery and a cancel both write it, and one is first.

    All methods raise EnqueueUnavailable if the store can't be reached.
    """

    @abstractmethod
    def begin_call(self, key: str) -> bool:
        """Mark that a call begins; returns False if it was cancelled before.

        Waits for a transaction that has cancelled the call and is still open.
        """

    @abstractmethod
    def begin_step(self, key: str, *, is_marked: bool) -> bool:
        """Look whether a chain goes on; returns False if it was cancelled.

        With `is_marked` the first step marks that the chain has begun, as `begin_call`
        does. All other looks only read.
        """

    @abstractmethod
    def cancel_call(self, key: str, *, may_have_begun: bool = False) -> bool:
        """Mark a call as cancelled; returns whether it had begun before.

        `may_have_begun` says that it does not mark its begin: it counts as begun.
        A store in a database writes the mark in its open transaction, if there is one.
        """

    @abstractmethod
    def is_cancelled(self, key: str) -> bool:
        """Whether a call is marked as cancelled."""

    @abstractmethod
    def is_begun(self, key: str) -> bool:
        """Whether a call is marked as begun before any cancel."""

    @abstractmethod
    def prune_marks(self, older_than: timedelta, limit: int) -> int:
        """Delete up to `limit` marks that were made longer ago; how many."""
