"""Features that only this server has: faults, counts and expiry on demand."""

from __future__ import annotations

import os
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.datastore import Client, Entity, Key

from tests.support.datastore import DatastoreServer, Limits, running_datastore
from tests.support.datastore.running import VARIABLE, MakeClient

pytest_plugins = ["tests.support.datastore.fixtures"]


def count(client: Client) -> int:
    return len(list(client.query(kind="Run").fetch()))


# Faults


def test_a_failed_commit_changed_nothing(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    datastore_server.fail_next("Commit", grpc.StatusCode.UNAVAILABLE)

    with pytest.raises(exceptions.ServiceUnavailable):
        datastore_client.put(Entity(datastore_client.key("Run", "a")))

    assert count(datastore_client) == 0
    assert datastore_server.calls["Commit"] == 1


def test_an_ambiguous_commit_has_happened(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    datastore_server.fail_next("Commit", code, apply=True)

    with pytest.raises(exceptions.DeadlineExceeded):
        datastore_client.put(Entity(datastore_client.key("Run", "a")))

    assert count(datastore_client) == 1


def test_faults_come_after_the_calls_they_skip_and_as_often_as_told(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    datastore_server.fail_next("Commit", grpc.StatusCode.ABORTED, skip=1, times=2)

    def put() -> str:
        try:
            datastore_client.put(Entity(datastore_client.key("Run")))
        except exceptions.Aborted:
            return "aborted"
        return "stored"

    assert [put() for _ in range(4)] == ["stored", "aborted", "aborted", "stored"]


def test_the_client_itself_retries_reads_and_no_other_call(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    key = datastore_client.key("Run", "a")
    for method in ("Lookup", "BeginTransaction"):
        datastore_server.fail_next(method, grpc.StatusCode.UNAVAILABLE)

    assert datastore_client.get(key) is None
    with pytest.raises(exceptions.ServiceUnavailable):
        datastore_client.transaction().begin()

    assert datastore_server.calls == {"Lookup": 2, "BeginTransaction": 1}


def test_a_callback_comes_between_a_read_and_its_commit(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    client, key = datastore_client, datastore_client.key("Run", "a")
    transaction = client.transaction()
    transaction.begin()
    client.get(key, transaction=transaction)
    transaction.put(Entity(key))
    datastore_server.before_next("Commit", lambda: client.put(Entity(key)))

    with pytest.raises(exceptions.Aborted):
        transaction.commit()


def test_an_unknown_method_cannot_fail(datastore_server: DatastoreServer) -> None:
    with pytest.raises(ValueError, match="BeginTransaction"):
        datastore_server.fail_next("commit", grpc.StatusCode.ABORTED)


def test_reset_forgets_entities_faults_and_counts(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    datastore_client.put(Entity(datastore_client.key("Run", "a")))
    datastore_server.fail_next("Commit", grpc.StatusCode.INTERNAL)

    datastore_server.reset()

    assert datastore_server.calls == {}
    datastore_client.put(Entity(datastore_client.key("Run", "b")))
    assert count(datastore_client) == 1


# Transactions


def test_an_expired_transaction_is_refused(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    transaction = datastore_client.transaction()
    transaction.begin()
    transaction.put(Entity(datastore_client.key("Run", "a")))
    datastore_server.expire_transactions()

    with pytest.raises(exceptions.InvalidArgument, match="expired or is no longer"):
        transaction.commit()


@pytest.mark.parametrize(
    ("steps", "expired"),
    [
        ([59, 59], False),
        ([61], True),
        ([59] * 4 + [33], False),
        ([59] * 4 + [35], True),
    ],
)
def test_transactions_expire_when_idle_or_old(
    make_datastore_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[int],
    expired: bool,
) -> None:
    now = [0.0]
    with DatastoreServer(clock=lambda: now[0]) as server:
        monkeypatch.setenv(VARIABLE, server.address)
        client = make_datastore_client()
        transaction = client.transaction()
        transaction.begin()
        outcomes = []
        for step in steps:
            now[0] += step
            try:
                client.get(client.key("Run", "a"), transaction=transaction)
                outcomes.append(False)
            except exceptions.InvalidArgument:
                outcomes.append(True)

    assert outcomes == [False] * (len(steps) - 1) + [expired]


def test_a_commit_that_is_repeated_after_its_answer_was_lost_is_refused(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    transaction = datastore_client.transaction()
    transaction.begin()
    transaction.put(Entity(datastore_client.key("Run", "a")))
    name = transaction.id
    datastore_server.fail_next("Commit", grpc.StatusCode.UNAVAILABLE, apply=True)
    with pytest.raises(exceptions.ServiceUnavailable):
        transaction.commit()

    transaction._id, transaction._status = name, transaction._IN_PROGRESS
    with pytest.raises(exceptions.InvalidArgument):
        transaction.commit()

    assert count(datastore_client) == 1


def test_a_lookup_that_begins_a_transaction_saves_a_call(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    client, key = datastore_client, datastore_client.key("Run", "a")
    with client.transaction(begin_later=True):
        client.get(key)
        client.put(Entity(key))

    assert datastore_server.calls == {"Lookup": 1, "Commit": 1}


def test_the_client_forgets_the_transaction_that_a_query_begins(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    """A flaw of the client: with begin_later, what a query read is not protected."""
    client = datastore_client
    with client.transaction(begin_later=True):
        runs = list(client.query(kind="Run").fetch())
        client.put(Entity(client.key("Run", "mine")))
        datastore_server.before_next(
            "Commit", lambda: put_elsewhere(client, client.key("Run", "theirs"))
        )

    assert (len(runs), count(client)) == (0, 2)


def put_elsewhere(client: Client, key: Key) -> None:
    """Runs in a thread of the server, where the client has no open transaction."""
    client.put(Entity(key))


@pytest.mark.parametrize(
    ("strategy", "outcome"), [("SERVER_VALUE", "kept"), ("FAIL", "refused")]
)
def test_a_mutation_with_another_base_version_conflicts(
    datastore_server: DatastoreServer,
    datastore_client: Client,
    strategy: str,
    outcome: str,
) -> None:
    client, key = datastore_client, datastore_client.key("Run", "a")

    def commit(**mutation: Any) -> Any:
        request = {
            "project_id": client.project,
            "mode": "NON_TRANSACTIONAL",
            "mutations": [{"upsert": {"key": key.to_protobuf()}, **mutation}],
        }
        return client._datastore_api.commit(request=request).mutation_results[0]

    first = commit()
    second = commit(base_version=first.version)
    assert second.version > first.version
    outdated = {"base_version": first.version, "conflict_resolution_strategy": strategy}
    if outcome == "refused":
        with pytest.raises(exceptions.Aborted):
            commit(**outdated)
    else:
        assert commit(**outdated).conflict_detected


# Running


def test_an_address_is_known_only_while_the_server_runs() -> None:
    server = DatastoreServer(limits=Limits(mutations=1))
    with server:
        assert server.address.startswith("127.0.0.1:")
    with pytest.raises(RuntimeError):
        _ = server.address


def test_a_datastore_that_runs_already_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1:1")

    with running_datastore() as server:
        assert server is None
        assert os.environ[VARIABLE] == "127.0.0.1:1"


def test_the_variable_is_set_while_the_server_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)

    with running_datastore() as server:
        assert os.environ[VARIABLE] == server.address

    assert VARIABLE not in os.environ
