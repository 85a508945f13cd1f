"""Payloads and failed tasks in Datastore: chunks, damage, commits in between."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from grpc import StatusCode

from cloudtask.exceptions import EnqueueUnavailable, PayloadLost
from cloudtask.stores import AlreadyDone, FailedCall
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.blobs import A_COMMIT, CHUNK, CHUNK_KIND, INLINE
from cloudtask.stores.datastore.client import TRIES, clients
from cloudtask.stores.results import ResultState, StoredResult
from tests.support import clock
from tests.support.proxy import DatastoreProxy

MIB = 1024 * 1024
AN_HOUR = timedelta(hours=1)


def data_of(size: int) -> bytes:
    return os.urandom(size)


def entities(store: DatastoreStore, kind: str) -> list[Any]:
    """Each as a whole: all of them may be more than one answer can hold."""
    client = clients.get(store.place)
    query = client.query(kind=kind, namespace=store.place.namespace)
    query.keys_only()
    return [client.get(one.key) for one in query.fetch()]


def chunks(store: DatastoreStore) -> list[Any]:
    return entities(store, CHUNK_KIND)


def failed(key: str = "k", **values: Any) -> FailedCall:
    call = FailedCall(
        key=key,
        task="app.tasks.mail",
        queue="mail",
        name="name",
        envelope=b"\x00envelope",
        arguments="user_id=7",
        error="ValueError: no",
        traceback="Traceback ...",
        attempts=3,
        enqueued_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    return replace(call, **values)


@pytest.mark.parametrize(
    "size",
    [
        *(0, 1, INLINE, INLINE + 1, 200_000, CHUNK, CHUNK + 1, A_COMMIT * CHUNK),
        *(3 * MIB, 9 * MIB, 20 * MIB, 32 * MIB),
    ],
)
def test_a_payload_of_any_size_comes_back(
    datastore_store: DatastoreStore, size: int
) -> None:
    data = data_of(size)
    datastore_store.save_payload("k", data)

    assert datastore_store.load_payload("k") == data


def test_a_payload_that_is_replaced_leaves_no_chunks(
    datastore_store: DatastoreStore,
) -> None:
    for size in (12 * MIB, 3 * CHUNK, 10):
        data = data_of(size)
        datastore_store.save_payload("k", data)
        assert datastore_store.load_payload("k") == data

    assert chunks(datastore_store) == []


def test_a_finished_payload_is_remembered_without_its_data(
    datastore_store: DatastoreStore,
) -> None:
    datastore_store.save_payload("k", data_of(2 * MIB))
    datastore_store.finish_payload("k")
    datastore_store.finish_payload("never saved")

    with pytest.raises(AlreadyDone):
        datastore_store.load_payload("k")
    with pytest.raises(PayloadLost, match="never saved"):
        datastore_store.load_payload("never saved")
    assert chunks(datastore_store) == []


def test_a_deleted_payload_leaves_nothing(datastore_store: DatastoreStore) -> None:
    datastore_store.save_payload("k", data_of(2 * MIB))
    datastore_store.delete_payload("k")
    datastore_store.delete_payload("k")

    with pytest.raises(PayloadLost, match="'k'"):
        datastore_store.load_payload("k")
    assert chunks(datastore_store) == []


def test_old_payloads_are_pruned_up_to_a_limit(datastore_store: DatastoreStore) -> None:
    for number in range(25):
        datastore_store.save_payload(str(number), data_of(INLINE + 1))
    with clock.ahead(7200):
        datastore_store.save_payload("young", b"data")

        assert datastore_store.prune_payloads(AN_HOUR, 20) == 20
        assert datastore_store.prune_payloads(AN_HOUR, 20) == 5
        assert datastore_store.prune_payloads(AN_HOUR, 20) == 0
    assert datastore_store.load_payload("young") == b"data"
    assert chunks(datastore_store) == []


def test_a_payload_that_was_touched_is_young_with_its_chunks(
    datastore_store: DatastoreStore,
) -> None:
    data = data_of(3 * MIB)
    datastore_store.save_payload("k", data)
    with clock.ahead(7200):
        datastore_store.touch_payload("k")
        datastore_store.touch_payload("never saved")

        assert datastore_store.prune_payloads(AN_HOUR, 10) == 0
    assert datastore_store.load_payload("k") == data


@pytest.mark.parametrize("harm", ["missing", "altered", "cut"])
def test_a_damaged_payload_is_lost_by_name(
    datastore_store: DatastoreStore, harm: str
) -> None:
    datastore_store.save_payload("my-key", data_of(3 * MIB))
    client = clients.get(datastore_store.place)
    chunk = chunks(datastore_store)[1]
    if harm == "missing":
        client.delete(chunk.key)
    else:
        data = chunk["data"]
        altered = bytes([data[-1] ^ 1])
        chunk["data"] = data[:-1] if harm == "cut" else data[:-1] + altered
        client.put(chunk)

    with pytest.raises(PayloadLost, match="'my-key' is damaged"):
        datastore_store.load_payload("my-key")


def test_nothing_is_indexed_that_is_not_asked_for(
    datastore_store: DatastoreStore,
) -> None:
    datastore_store.save_payload("k", data_of(MIB))
    [payload] = entities(datastore_store, "CloudtaskPayload")
    chunk = chunks(datastore_store)[0]

    for entity in (payload, chunk):
        assert set(entity) - entity.exclude_from_indexes == {"saved_at"}


# Commits that fail


def test_a_save_that_was_cut_off_is_not_seen_and_swept(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, skip=1, times=TRIES)
    with pytest.raises(EnqueueUnavailable, match="Saving payload k"):
        datastore_store.save_payload("k", data_of(20 * MIB))

    with pytest.raises(PayloadLost):
        datastore_store.load_payload("k")
    assert len(chunks(datastore_store)) == A_COMMIT
    with clock.ahead(7200):
        assert datastore_store.prune_payloads(AN_HOUR, 10) == 0
    assert chunks(datastore_store) == []


def test_a_save_that_was_cut_off_leaves_what_was_there(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    data = data_of(2 * MIB)
    datastore_store.save_payload("k", data)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, skip=1, times=TRIES)
    with pytest.raises(EnqueueUnavailable):
        datastore_store.save_payload("k", data_of(20 * MIB))

    assert datastore_store.load_payload("k") == data


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("size", [10, 20 * MIB])
def test_a_save_whose_answer_was_lost_is_whole(
    faults: DatastoreProxy, datastore_store: DatastoreStore, size: int, skip: int
) -> None:
    datastore_store.save_payload("k", b"old" * MIB)
    data = data_of(size)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, apply=True, skip=skip)

    datastore_store.save_payload("k", data)

    assert datastore_store.load_payload("k") == data
    assert len(chunks(datastore_store)) == (0 if size == 10 else 22)


@pytest.mark.parametrize("apply", [True, False])
def test_a_prune_whose_answer_was_lost_counts_all(
    faults: DatastoreProxy, datastore_store: DatastoreStore, apply: bool
) -> None:
    for key in "abc":
        datastore_store.save_payload(key, b"data")
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, apply=apply)

    with clock.ahead(7200):
        assert datastore_store.prune_payloads(AN_HOUR, 10) == 3


# Somebody else comes in between


def test_a_payload_replaced_while_it_is_loaded_comes_back_whole(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    replacement = data_of(9 * MIB)
    datastore_store.save_payload("k", data_of(9 * MIB))

    def replaced() -> None:
        datastore_store.save_payload("k", replacement)

    faults.before_next("Lookup", lambda: faults.before_next("Lookup", replaced))

    assert datastore_store.load_payload("k") == replacement


def test_a_payload_finished_while_it_is_loaded_is_done(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    datastore_store.save_payload("k", data_of(9 * MIB))

    def finished() -> None:
        datastore_store.finish_payload("k")

    faults.before_next("Lookup", lambda: faults.before_next("Lookup", finished))

    with pytest.raises(AlreadyDone):
        datastore_store.load_payload("k")


def test_of_two_that_save_at_once_one_is_whole(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    first, second = data_of(3 * MIB), data_of(2 * MIB)
    optimistic.before_next("Commit", lambda: datastore_store.save_payload("k", second))

    datastore_store.save_payload("k", first)

    assert datastore_store.load_payload("k") == first
    assert len(chunks(datastore_store)) == 4


def test_a_payload_saved_again_while_it_is_pruned_stays(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    datastore_store.save_payload("k", b"old")
    with clock.ahead(7200):
        optimistic.before_next(
            "Commit", lambda: datastore_store.save_payload("k", b"new")
        )

        assert datastore_store.prune_payloads(AN_HOUR, 10) == 0
    assert datastore_store.load_payload("k") == b"new"


# Failed tasks


def test_a_failed_task_is_loaded_as_it_was_kept(
    datastore_store: DatastoreStore,
) -> None:
    given = failed(envelope=data_of(3 * MIB), traceback="é" * 20_000)
    datastore_store.save_failed(given)

    found = datastore_store.load_failed("k")

    assert found is not None
    assert found.failed_at is not None
    assert replace(found, failed_at=None) == given
    assert type(found.enqueued_at) is datetime
    assert datastore_store.load_failed("other") is None


def test_failed_tasks_are_listed_newest_first_without_envelopes(
    datastore_store: DatastoreStore,
) -> None:
    long = "app.tasks." + "x" * 490
    for seconds, (key, task) in enumerate([("a", long), ("b", "app.b"), ("c", long)]):
        with clock.ahead(seconds):
            datastore_store.save_failed(failed(key, task=task))

    def listed(**options: Any) -> list[str]:
        return [one.key for one in datastore_store.list_failed(**options)]

    assert listed(task=None, limit=9) == ["c", "b", "a"]
    assert listed(task=None, limit=2) == ["c", "b"]
    assert listed(task=long, limit=9) == ["c", "a"]
    assert listed(task="app.none", limit=9) == []
    assert {
        one.envelope for one in datastore_store.list_failed(task=None, limit=9)
    } == {b""}


def test_a_failed_task_is_replaced_and_deleted_with_its_chunks(
    datastore_store: DatastoreStore,
) -> None:
    datastore_store.save_failed(failed(envelope=data_of(3 * MIB)))
    datastore_store.save_failed(failed(envelope=data_of(2 * MIB), attempts=4))
    assert len(chunks(datastore_store)) == 3

    assert datastore_store.delete_failed("k")
    assert not datastore_store.delete_failed("k")
    assert chunks(datastore_store) == []


def test_a_sweep_leaves_the_chunks_of_failed_tasks(
    datastore_store: DatastoreStore,
) -> None:
    given = failed(envelope=data_of(3 * MIB))
    datastore_store.save_failed(given)
    with clock.ahead(7200):
        datastore_store.prune_payloads(AN_HOUR, 10)

    found = datastore_store.load_failed("k")
    assert found is not None
    assert found.envelope == given.envelope


def test_old_failed_tasks_are_found(datastore_store: DatastoreStore) -> None:
    for key in "abc":
        datastore_store.save_failed(failed(key))
    with clock.ahead(7200):
        datastore_store.save_failed(failed("young"))

        assert set(datastore_store.old_failed(AN_HOUR, 9)) == set("abc")
        assert len(datastore_store.old_failed(AN_HOUR, 2)) == 2


@pytest.mark.parametrize("apply", [True, False])
def test_a_deletion_whose_answer_was_lost_has_happened(
    faults: DatastoreProxy, datastore_store: DatastoreStore, apply: bool
) -> None:
    datastore_store.save_failed(failed())
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, apply=apply)

    assert datastore_store.delete_failed("k")
    assert datastore_store.load_failed("k") is None


def test_of_two_that_delete_at_once_one_did(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    datastore_store.save_failed(failed())
    others: list[bool] = []
    optimistic.before_next(
        "Commit", lambda: others.append(datastore_store.delete_failed("k"))
    )

    assert not datastore_store.delete_failed("k")
    assert others == [True]


# Results


def test_a_result_that_is_forgotten_leaves_no_chunks(
    datastore_store: DatastoreStore,
) -> None:
    result = StoredResult(
        id="r",
        task="app.tasks.sum",
        queue="default",
        state=ResultState.SUCCEEDED,
        value=data_of(2 * MIB),
        enqueued_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    datastore_store.save_result(result, AN_HOUR)
    assert chunks(datastore_store)

    with clock.ahead(3 * 7200):
        datastore_store.prune_results(AN_HOUR, 10)

    assert datastore_store.load_result("r") is None
    assert chunks(datastore_store) == []
