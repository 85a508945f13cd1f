"""Kinds and properties in Datastore: those of what a store has written."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtask.runs import FailureState
from cloudtask.stores import FailedCall
from cloudtask.stores.datastore import DatastoreStore, plans
from cloudtask.stores.datastore.entities import RUN
from cloudtask.stores.results import ResultState, StoredResult
from tests.stores import runs_making as runs
from tests.support.datastore import DatastoreServer

VARIABLE = "DATASTORE_EMULATOR_HOST"
PROJECT = "golden"


def collected() -> list[str]:
    """ "Kind.property", and whether an index has it."""
    with DatastoreServer() as server:
        os.environ[VARIABLE] = server.address
        try:
            _fill(DatastoreStore({"PROJECT": PROJECT}))
            stored = [line for entity in _entities() for line in _lines(entity)]
            # Of a large plan, while its shards are written.
            return [*stored, *(f"{RUN}.{name}" for name in plans.NAMES)]
        finally:
            del os.environ[VARIABLE]


def _fill(store: DatastoreStore) -> None:
    """Have everything written that the store can write."""
    store.save_payload("payload", b"x" * 100_000)
    store.save_failed(_failed())
    store.note_start("late")
    store.save_result(_result(), timedelta(days=1))
    store.note_upkeep("relay", "text")
    runs.start(store, shards=2)
    runs.finish(store)
    for state in (FailureState.WAITING, FailureState.FAILED):
        failure = runs.failure(state.value, state)
        store.record_failure(failure, delay=timedelta(0))


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


def _entities() -> list[Any]:
    from google.cloud import datastore

    client = datastore.Client(PROJECT)  # type: ignore[no-untyped-call]
    return list(client.query().fetch())


def _lines(entity: Any) -> list[str]:
    return [
        f"{entity.kind}.{name}"
        + (" (indexed)" if name not in entity.exclude_from_indexes else "")
        for name in entity
    ]
