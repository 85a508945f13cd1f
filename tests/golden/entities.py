"""Kinds and properties in Datastore: those of what a store has written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtask.runs import FailureState
from cloudtask.stores import FailedCall
from cloudtask.stores.datastore import DatastoreStore, plans
from cloudtask.stores.datastore.access import Path, Row
from cloudtask.stores.datastore.entities import RUN
from cloudtask.stores.groups import StoredGroup
from cloudtask.stores.results import ResultState, StoredResult
from tests.stores import runs_making as runs
from tests.stores.runs_making import record


class _Recorded:
    """The rows that a store wrote; it stands for each try of a transaction, too."""

    is_doubtful = False

    def __init__(self) -> None:
        self.rows: dict[Path, Row] = {}

    def get(self, path: Path) -> Row | None:
        return self.rows.get(path)

    def get_all(self, *paths: Path) -> list[Row | None]:
        return [self.rows.get(path) for path in paths]

    def put(self, *rows: Row) -> None:
        marked = [
            Row(one.path, {**one.values, "mark": ""}, one.indexed) for one in rows
        ]
        self.rows.update({row.path: row for row in marked})

    def delete(self, *paths: Path) -> None: ...


class _RecordingStore(DatastoreStore):
    """Writes as the store does, and keeps the rows here: no Datastore is needed."""

    def __init__(self) -> None:
        super().__init__({"PROJECT": "golden"})
        self.recorded = _Recorded()

    def transact(self, what: str, work: Any) -> Any:
        return work(self.recorded)

    def get(self, what: str, *paths: Path) -> list[Row | None]:
        return self.recorded.get_all(*paths)

    def count(self, *args: Any, **options: Any) -> int:
        return 0

    def put(self, what: str, rows: Sequence[Row]) -> None:
        self.recorded.rows.update({row.path: row for row in rows})


def collected() -> list[str]:
    """ "Kind.property", and whether an index has it."""
    store = _RecordingStore()
    _fill(store)
    stored = [line for row in store.recorded.rows.values() for line in _lines(row)]
    # Of a large plan, while its shards are written.
    return [*stored, *(f"{RUN}.{name}" for name in plans.NAMES)]


def _fill(store: DatastoreStore) -> None:
    """Have everything written that the store can write."""
    store.save_payload("payload", b"x" * 100_000)
    store.save_failed(_failed())
    store.note_start("late")
    store.begin_call("begun")
    store.save_result(_result(), timedelta(days=1))
    store.note_upkeep("relay", "text")
    store.create_group(StoredGroup(id="group", total=1, rest=b"x"))
    store.save_member("group", 0, b"x")
    runs.start(store, shards=2)
    runs.finish(store)
    for state in (FailureState.WAITING, FailureState.FAILED):
        failure = runs.failure(state.value, state)
        record(store, failure, delay=timedelta(0))


def _failed() -> FailedCall:
    values: dict[str, Any] = dict.fromkeys(
        ("key", "task", "queue", "name", "arguments", "error", "traceback"), "text"
    )
    now = datetime.now(UTC)
    return FailedCall(**values, envelope=b"x", attempts=1, enqueued_at=now)


def _result() -> StoredResult:
    now = datetime.now(UTC)
    return StoredResult(
        id="result",
        task="text",
        queue="text",
        state=ResultState.SUCCEEDED,
        value=b"x",
        enqueued_at=now,
    )


def _lines(row: Row) -> list[str]:
    return [
        f"{row.path[-2]}.{name}" + (" (indexed)" if name in row.indexed else "")
        for name in row.values
    ]
