"""Transactions: what each has read, so that its commit can tell who came between.

Concurrency is optimistic: reads see the database as it was when the transaction
began, nothing waits, and the first of two that touch one entity commits. Datastore in
its pessimistic mode lets the second wait and then aborts one of them: either way a
caller must run the whole transaction again on ABORTED.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.datastore.errors import invalid, unimplemented
from tests.support.datastore.keys import Key
from tests.support.datastore.limits import Limits
from tests.support.datastore.plans import Plan
from tests.support.datastore.protos import TransactionOptions

Footprint = tuple[tuple[Key, int], ...]  # keys and versions of a result


@dataclass(frozen=True)
class Scan:
    """A query that a transaction ran: what it saw, and whether that was all."""

    plan: Plan
    seen: Footprint
    exhausted: bool

    def is_still(self, footprint: Footprint) -> bool:
        if self.exhausted:
            return footprint == self.seen
        return footprint[: len(self.seen)] == self.seen


@dataclass
class Transaction:
    name: bytes
    read_only: bool
    snapshot: int
    began: float
    used: float
    keys: set[Key] = field(default_factory=set)
    scans: list[Scan] = field(default_factory=list)


class Transactions:
    """The open ones of one database; the clock counts seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._open: dict[bytes, Transaction] = {}

    def begin(self, options: TransactionOptions, snapshot: int) -> Transaction:
        """A new one; a previous transaction that it retries is closed."""
        if options.read_only.HasField("read_time"):
            unimplemented("reads at a time")
        self._open.pop(options.read_write.previous_transaction, None)
        now = self._clock()
        transaction = Transaction(
            name=secrets.token_bytes(16),
            read_only=options.WhichOneof("mode") == "read_only",
            snapshot=snapshot,
            began=now,
            used=now,
        )
        self._open[transaction.name] = transaction
        return transaction

    def find(self, name: bytes) -> Transaction:
        self._expire()
        transaction = self._open.get(name)
        if transaction is None:
            invalid("The referenced transaction has expired or is no longer valid.")
        transaction.used = self._clock()
        return transaction

    def end(self, name: bytes) -> Transaction:
        transaction = self.find(name)
        del self._open[name]
        return transaction

    def end_all(self) -> None:
        self._open.clear()

    def oldest_snapshot(self, latest: int) -> int:
        self._expire()
        return min((each.snapshot for each in self._open.values()), default=latest)

    def _expire(self) -> None:
        now = self._clock()
        self._open = {
            name: each
            for name, each in self._open.items()
            if now - each.used < self._limits.idle
            and now - each.began < self._limits.life
        }
