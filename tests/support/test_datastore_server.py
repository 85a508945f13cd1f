"""Transactions, the part a store relies on most, through the real client.

These tests hold for any Datastore: with DATASTORE_EMULATOR_HOST set they run against
that one.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.datastore import Client, Entity, Key, Query, Transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest_plugins = ["tests.support.datastore.fixtures"]


def entity(key: Key, /, **properties: Any) -> Entity:
    made = Entity(key)
    made.update(properties)
    return made


def begin(client: Client, **options: Any) -> Transaction:
    transaction = client.transaction(**options)
    transaction.begin()
    return transaction


def read(client: Client, key: Key, transaction: Transaction) -> Entity | None:
    return client.get(key, transaction=transaction)


def query_within(transaction: Transaction, query: Query) -> list[Entity]:
    """What `with transaction:` does, without the commit at its end."""
    transaction._client._push_batch(transaction)
    try:
        return list(query.fetch())
    finally:
        transaction._client._pop_batch()


def commit_together(*transactions: Transaction) -> list[str]:
    """Commits from threads: a server that locks makes one wait for another."""

    def commit(transaction: Transaction) -> str:
        try:
            transaction.commit()
        except exceptions.Aborted:
            return "aborted"
        return "committed"

    with ThreadPoolExecutor(len(transactions)) as threads:
        return sorted(threads.map(commit, transactions))


def test_a_transaction_does_not_see_its_own_writes(datastore_client: Client) -> None:
    client, key = datastore_client, datastore_client.key("Run", "a")
    client.put(entity(key, n=1))

    with client.transaction():
        client.put(entity(key, n=2))
        within = client.get(key)

    assert (within["n"], client.get(key)["n"]) == (1, 2)


def test_a_read_only_transaction_reads_one_snapshot(datastore_client: Client) -> None:
    client = datastore_client
    one, two = client.key("Run", 1), client.key("Run", 2)
    client.put_multi([entity(one, n=1), entity(two, n=1)])
    transaction = begin(client, read_only=True)

    first = read(client, one, transaction)
    client.put_multi([entity(one, n=2), entity(two, n=2)])
    second = read(client, two, transaction)
    transaction.commit()

    assert (first["n"], second["n"]) == (1, 1)


def test_a_rolled_back_transaction_leaves_nothing(datastore_client: Client) -> None:
    key = datastore_client.key("Run", "a")

    with pytest.raises(ZeroDivisionError), datastore_client.transaction() as made:
        made.put(entity(key, share=1 / 0))

    assert datastore_client.get(key) is None


def test_two_transactions_that_touch_one_entity_conflict(
    datastore_client: Client,
) -> None:
    key = datastore_client.key("Shard", "a")
    datastore_client.put(entity(key, fence=0))
    rivals = begin(datastore_client), begin(datastore_client)
    for rival in rivals:
        fence = read(datastore_client, key, rival)["fence"]
        rival.put(entity(key, fence=fence + 1))

    assert commit_together(*rivals) == ["aborted", "committed"]
    assert datastore_client.get(key)["fence"] == 1


def test_two_transactions_that_saw_no_entity_do_not_both_create_it(
    datastore_client: Client,
) -> None:
    key = datastore_client.key("Run", "a")
    rivals = begin(datastore_client), begin(datastore_client)
    for rival in rivals:
        assert read(datastore_client, key, rival) is None
        rival.put(entity(key))

    assert commit_together(*rivals) == ["aborted", "committed"]


def test_write_skew_is_impossible(datastore_client: Client) -> None:
    """Each marks its own shard when the other's is open: one of them must fail."""
    client = datastore_client
    keys = client.key("Shard", 1), client.key("Shard", 2)
    client.put_multi([entity(key, done=False) for key in keys])
    rivals = begin(client), begin(client)
    for rival, key in zip(rivals, keys, strict=True):
        assert len(client.get_multi(keys, transaction=rival)) == 2
        rival.put(entity(key, done=True))

    assert commit_together(*rivals) == ["aborted", "committed"]


def test_a_phantom_in_a_query_is_a_conflict(datastore_client: Client) -> None:
    client = datastore_client
    run = client.key("Run", "a")
    client.put(entity(client.key("Shard", 1, parent=run)))
    rivals = []
    for number in (2, 3):
        rival = begin(client)
        shards = query_within(rival, client.query(kind="Shard", ancestor=run))
        rival.put(entity(client.key("Shard", number, parent=run), n=len(shards)))
        rivals.append(rival)

    assert commit_together(*rivals) == ["aborted", "committed"]


def test_transactions_on_different_entities_do_not_conflict(
    datastore_client: Client,
) -> None:
    keys = [datastore_client.key("Shard", number) for number in (1, 2)]
    datastore_client.put_multi([entity(key, n=0) for key in keys])
    transactions = begin(datastore_client), begin(datastore_client)
    for transaction, key in zip(transactions, keys, strict=True):
        read(datastore_client, key, transaction)
        transaction.put(entity(key, n=1))

    assert commit_together(*transactions) == ["committed", "committed"]


def test_blind_writes_commit_and_the_last_one_stays(datastore_client: Client) -> None:
    key = datastore_client.key("Run", "a")
    first, second = begin(datastore_client), begin(datastore_client)
    first.put(entity(key, n=1))
    second.put(entity(key, n=2))

    second.commit()
    first.commit()

    assert datastore_client.get(key)["n"] == 1


def test_a_refused_mutation_undoes_its_whole_transaction(
    datastore_client: Client,
) -> None:
    client = datastore_client
    old, new = client.key("Run", "old"), client.key("Run", "new")
    client.put(entity(old, n=1))
    transaction = begin(client)
    transaction.put(entity(new))
    transaction.put(entity(old, n=2))
    transaction.mutations[-1].insert = transaction.mutations[-1].upsert

    with pytest.raises(exceptions.AlreadyExists):
        transaction.commit()

    assert client.get(new) is None
    assert client.get(old)["n"] == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_has_ended_is_refused(
    datastore_client: Client, end: str
) -> None:
    key = datastore_client.key("Run", "a")
    transaction = begin(datastore_client)
    name = transaction.id
    getattr(transaction, end)()
    transaction._id = name

    with pytest.raises(exceptions.InvalidArgument):
        datastore_client.get(key, transaction=transaction)


def test_an_incomplete_key_is_completed_by_the_commit(datastore_client: Client) -> None:
    with datastore_client.transaction() as transaction:
        run = entity(datastore_client.key("Run"))
        transaction.put(run)

    assert datastore_client.get(run.key) == run


steps = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "begin", "end"]), st.integers(0, 2)),
    max_size=15,
)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=steps)
@example(
    [("put", 0), ("begin", 0), ("delete", 0), ("begin", 0), ("end", 0), ("put", 0)]
)
def test_every_snapshot_stays_what_it_was(
    datastore_client: Client, steps: list[tuple[str, int]]
) -> None:
    client, kind = datastore_client, uuid.uuid4().hex
    keys = [client.key(kind, f"{number}") for number in range(3)]
    now: dict[Key, int] = {}
    snapshots: list[tuple[Transaction, dict[Key, int]]] = []
    for number, (verb, place) in enumerate(steps):
        if verb == "put":
            client.put(entity(keys[place], n=number))
            now[keys[place]] = number
        elif verb == "delete":
            client.delete(keys[place])
            now.pop(keys[place], None)
        elif verb == "begin":
            snapshots.append((begin(client, read_only=True), dict(now)))
        elif snapshots:
            snapshots.pop(place % len(snapshots))[0].commit()
        for transaction, before in snapshots:
            found = client.get_multi(keys, transaction=transaction)
            scanned = query_within(transaction, client.query(kind=kind))
            assert {each.key: each["n"] for each in found} == before
            assert {each.key: each["n"] for each in scanned} == before

    assert {each.key: each["n"] for each in client.get_multi(keys)} == now


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Makes threads take turns as often as they can, so that races do happen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_increments_from_many_threads_are_all_counted(datastore_client: Client) -> None:
    client, workers, increments = datastore_client, 8, 5
    key = client.key("Run", "counter")
    client.put(entity(key, n=0))
    barrier = Barrier(workers)

    def increment() -> int:
        aborted = 0
        barrier.wait()
        for _ in range(increments):
            while True:
                try:
                    with client.transaction():
                        client.put(entity(key, n=client.get(key)["n"] + 1))
                    break
                except exceptions.Aborted:
                    aborted += 1
        return aborted

    with ThreadPoolExecutor(workers) as threads:
        aborted = [threads.submit(increment) for _ in range(workers)]

    assert all(future.result() >= 0 for future in aborted)
    assert client.get(key)["n"] == workers * increments
