"""The documented limits, how answers are cut, and which indexes exist.

Google's emulator does not keep to all of these: they are tested on our server alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.datastore import Client, Entity, Key
from google.cloud.datastore.query import PropertyFilter

from tests.support.datastore import DatastoreServer
from tests.support.datastore.running import VARIABLE, MakeClient

pytest_plugins = ["tests.support.datastore.fixtures"]

MIB = 1024 * 1024


def blob(key: Key, size: int) -> Entity:
    entity = Entity(key, exclude_from_indexes=("blob",))
    entity["blob"] = b"x" * size
    return entity


def count(client: Client) -> int:
    return len(list(client.query(kind="Run").fetch()))


def put_sizes(client: Client, *sizes: int) -> None:
    keys = [client.key("Run", number) for number in range(1, len(sizes) + 1)]
    entities = [blob(key, size) for key, size in zip(keys, sizes, strict=True)]
    with client.transaction() as transaction:
        for entity in entities:
            transaction.put(entity)


def indexed(client: Client, size: int) -> Entity:
    entity = Entity(client.key("Run", "a"))
    entity["text"] = "x" * size
    return entity


@pytest.mark.usefixtures("datastore_server")
def test_what_just_fits_is_stored(datastore_client: Client) -> None:
    client = datastore_client
    put_sizes(client, *[1_048_000] * 9)
    client.put(indexed(client, 1500))
    client.put_multi([Entity(client.key("Other", n)) for n in range(1, 501)])
    client.put(Entity(client.key(*["K", 1] * 100)))

    assert count(client) == 10


@pytest.mark.usefixtures("datastore_server")
@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda c: c.put(blob(c.key("Run", 1), 1_048_488)), "longer than 1048487"),
        (lambda c: put_sizes(c, *[1_040_000] * 11), "payload size exceeds"),
        (lambda c: c.put(indexed(c, 1501)), '"text" is longer than 1500'),
        (
            lambda c: c.put_multi([Entity(c.key("Run", n)) for n in range(1, 502)]),
            "at most 500",
        ),
        (lambda c: c.put(Entity(c.key(*["K", 1] * 101))), "at most 100"),
        (
            lambda c: c.get_multi([c.key("R", n) for n in range(1, 1002)]),
            "at most 1000",
        ),
        (lambda c: c.put(Entity(c.key("__Run__", 1))), "reserved"),
        (lambda c: c.put(Entity(c.key("Run", "x" * 1501))), "longer than 1500"),
    ],
)
def test_what_is_too_much_is_refused(
    datastore_client: Client, put: Any, message: str
) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=message):
        put(datastore_client)

    assert count(datastore_client) == 0


@pytest.mark.usefixtures("datastore_server")
def test_an_entity_over_the_limit_is_refused_though_its_properties_fit(
    datastore_client: Client,
) -> None:
    entity = blob(datastore_client.key("Run", 1), MIB // 2)
    entity.exclude_from_indexes.add("more")
    entity["more"] = b"x" * (MIB // 2)

    with pytest.raises(exceptions.InvalidArgument, match="at most 1048572"):
        datastore_client.put(entity)


def test_a_large_lookup_and_a_large_query_come_in_parts(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    client = datastore_client
    keys = [client.key("Run", number) for number in range(1, 10)]
    put_sizes(client, *[MIB - 200] * 9)

    assert len(client.get_multi(keys)) == 9
    assert count(client) == 9
    assert datastore_server.calls["Lookup"] == 3
    assert datastore_server.calls["RunQuery"] == 3


def test_a_query_of_many_results_comes_in_batches(
    datastore_server: DatastoreServer, datastore_client: Client
) -> None:
    client = datastore_client
    for first in (0, 400):
        client.put_multi([Entity(client.key("Run", first + n + 1)) for n in range(400)])

    assert count(client) == 800
    assert datastore_server.calls["RunQuery"] == 3


@pytest.mark.usefixtures("datastore_server")
def test_a_large_lookup_cannot_begin_a_transaction(datastore_client: Client) -> None:
    """A flaw of the client: it begins a transaction for every part of the answer."""
    client = datastore_client
    keys = [client.key("Run", number) for number in range(1, 6)]
    put_sizes(client, *[MIB - 200] * 5)

    transaction = client.transaction(begin_later=True)
    with pytest.raises(ValueError, match="already begun"):
        client.get_multi(keys, transaction=transaction)


# Indexes


@pytest.fixture
def strict_client(
    make_datastore_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    with DatastoreServer(composite_indexes=False) as server:
        monkeypatch.setenv(VARIABLE, server.address)
        yield make_datastore_client()


def query_of(client: Client, *filters: tuple[str, str, Any], **options: Any) -> Any:
    query = client.query(kind="Shard", **options)
    for condition in filters:
        query.add_filter(filter=PropertyFilter(*condition))
    return query


@pytest.mark.parametrize(
    "make",
    [
        lambda c: query_of(c, ancestor=c.key("Run", "a")),
        lambda c: query_of(c, ("a", "=", 1), ("b", "=", 2), ancestor=c.key("Run", "a")),
        lambda c: query_of(c, ("a", ">", 1), order=["-a"]),
        lambda c: query_of(c, ("a", "=", 1), ("__key__", ">", c.key("Shard", 1))),
        lambda c: query_of(c, projection=["a"]),
    ],
)
def test_the_built_in_indexes_serve(strict_client: Client, make: Any) -> None:
    assert list(make(strict_client).fetch()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda c: query_of(c, ("a", ">", 1), ancestor=c.key("Run", "a")),
        lambda c: query_of(c, ("a", "=", 1), ("b", ">", 2)),
        lambda c: query_of(c, order=["a", "b"]),
        lambda c: query_of(c, order=["-__key__"]),
    ],
)
def test_the_built_in_indexes_do_not_serve(strict_client: Client, make: Any) -> None:
    with pytest.raises(exceptions.FailedPrecondition, match="composite index"):
        list(make(strict_client).fetch())
