"""One database: reads, transactions, commits; without a network and without locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NoReturn

from grpc import StatusCode

from tests.support.datastore import protos
from tests.support.datastore.entities import Record
from tests.support.datastore.errors import Refused, invalid
from tests.support.datastore.ids import Ids
from tests.support.datastore.keys import Key, Partition
from tests.support.datastore.limits import Limits
from tests.support.datastore.mutations import (
    Change,
    apply,
    check_sequence,
    is_conflict,
    result_of,
)
from tests.support.datastore.plans import Plan
from tests.support.datastore.queries import Row, rows_of
from tests.support.datastore.transactions import (
    Footprint,
    Scan,
    Transaction,
    Transactions,
)
from tests.support.datastore.versions import Versions


@dataclass(frozen=True)
class Reading:
    """Where a request reads: a version, and the transaction that remembers it."""

    version: int
    transaction: Transaction | None
    begun: bytes = b""  # the transaction that this request began


class Database:
    """`clock` counts seconds, `now` microseconds since 1970."""

    def __init__(
        self,
        project: str,
        name: str,
        *,
        limits: Limits,
        clock: Callable[[], float],
        now: Callable[[], int],
    ) -> None:
        self.home = Partition(project, name, "")
        self.limits = limits
        self.transactions = Transactions(limits, clock)
        self._now = now
        self._versions = Versions()
        self._ids = Ids()

    @property
    def latest(self) -> int:
        return self._versions.latest

    def begin(self, options: protos.TransactionOptions) -> Transaction:
        return self.transactions.begin(options, self.latest)

    def read(self, options: protos.ReadOptions) -> Reading:
        kind = options.WhichOneof("consistency_type")
        if kind == "transaction":
            transaction = self.transactions.find(options.transaction)
            return Reading(transaction.snapshot, transaction)
        if kind == "new_transaction":
            transaction = self.begin(options.new_transaction)
            return Reading(transaction.snapshot, transaction, transaction.name)
        return Reading(self.latest, None)

    def get(self, key: Key, reading: Reading) -> Record | None:
        if reading.transaction:
            reading.transaction.keys.add(key)
        return self._versions.at(key, reading.version)

    def rows(self, plan: Plan, reading: Reading) -> list[Row]:
        return self._rows(plan, reading.version)

    def remember(
        self, plan: Plan, rows: list[Row], reading: Reading, *, exhausted: bool
    ) -> None:
        """Notes in the transaction, if any, that `plan` gave `rows` first, or only."""
        if reading.transaction:
            scan = Scan(plan, _footprint(rows), exhausted)
            reading.transaction.scans.append(scan)

    def allocate(self, key: Key) -> Key:
        if key.complete:
            invalid(f"The key {key} has an id or a name already.")
        return self._ids.complete(key, self._versions.now)

    def reserve(self, key: Key) -> None:
        self._ids.reserve(key)

    def commit(
        self, changes: Iterable[Change], transaction: Transaction | None
    ) -> list[protos.MutationResult]:
        """All of `changes`, or none and a refusal."""
        changes = list(changes)
        if transaction and transaction.read_only and changes:
            invalid("Cannot modify entities in a read-only transaction.")
        check_sequence(changes, transactional=True)
        if transaction and not transaction.read_only:
            self._refuse_conflicts(transaction)
        return self._apply(changes)

    def commit_separately(self, changes: list[Change]) -> list[protos.MutationResult]:
        """Each of `changes` by itself: what precedes a refused one stays."""
        check_sequence(changes, transactional=False)
        return [result for change in changes for result in self._apply([change])]

    def _apply(self, changes: list[Change]) -> list[protos.MutationResult]:
        version = max(self._now(), self.latest + 1)
        staged: dict[Key, Record] = {}
        results = []
        for change in map(self._completed, changes):
            results.append(self._stage(change, staged, version))
        self._versions.write(version, staged)
        self._versions.forget_before(self.transactions.oldest_snapshot(version))
        return results

    def _stage(
        self, change: Change, staged: dict[Key, Record], version: int
    ) -> protos.MutationResult:
        current = staged.get(change.key) or self._versions.now(change.key)
        if current is not None and current.entity is None:
            current = None
        if not is_conflict(change, current):
            staged[change.key] = apply(change, current, version)
            return result_of(change, staged[change.key])
        if change.fails_on_conflict:
            raise Refused(
                StatusCode.ABORTED, f"The entity {change.key} has another version."
            )
        kept = current or Record(change.key, None, self.latest, 0)
        result = result_of(change, kept)
        result.conflict_detected = True
        return result

    def _completed(self, change: Change) -> Change:
        if change.key.complete:
            return change
        key = self.allocate(change.key)
        entity = protos.Entity(key=key.message(), properties=change.entity.properties)
        return replace(change, key=key, entity=entity, allocated=True)

    def _refuse_conflicts(self, transaction: Transaction) -> None:
        if transaction.snapshot == self.latest:
            return
        for key in transaction.keys:
            if self._versions.changed_since(key, transaction.snapshot):
                _abort(f"{key} was changed")
        for scan in transaction.scans:
            if not scan.is_still(_footprint(self._rows(scan.plan, self.latest))):
                _abort("the result of a query has changed")

    def _rows(self, plan: Plan, version: int) -> list[Row]:
        return rows_of(plan, self._versions.scan(plan.home, plan.kind, version))


def _footprint(rows: list[Row]) -> Footprint:
    return tuple((row.record.key, row.record.version) for row in rows)


def _abort(what: str) -> NoReturn:
    raise Refused(
        StatusCode.ABORTED,
        "Aborted due to cross-transaction contention:"
        f" {what} since the transaction began. Run the whole transaction again.",
    )
