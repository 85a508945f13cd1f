"""Entities, keys and ids; these hold for any Datastore."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.datastore import Client, Entity, Key
from google.cloud.datastore.helpers import GeoPoint, entity_to_protobuf

from tests.support.datastore.running import MakeClient

pytest_plugins = ["tests.support.datastore.fixtures"]


def entity(
    key: Key, /, *, unindexed: tuple[str, ...] = (), **properties: Any
) -> Entity:
    made = Entity(key, exclude_from_indexes=unindexed)
    made.update(properties)
    return made


def mutate(client: Client, verb: str, content: Any) -> Any:
    """A commit of one mutation that the client has no method for."""
    mutation = {verb: entity_to_protobuf(content)}
    return client._datastore_api.commit(
        request={
            "project_id": client.project,
            "mode": "NON_TRANSACTIONAL",
            "mutations": [mutation],
        }
    )


def test_an_entity_of_every_type_comes_back_the_same(datastore_client: Client) -> None:
    client = datastore_client
    stored = entity(
        client.key("Run", "a"),
        unindexed=("blob",),
        none=None,
        flag=True,
        number=-(2**63),
        real=0.1,
        moment=dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
        text="ž" * 700,
        blob=bytes(range(256)) * 1000,
        point=GeoPoint(48.1, 17.1),
        key=client.key("Shard", 7),
        items=[1, "two", None],
        empty=[],
        inner={"a": {"b": [1.5]}},
    )

    client.put(stored)

    assert client.get(stored.key) == stored


def test_a_missing_entity_is_none(datastore_client: Client) -> None:
    assert datastore_client.get(datastore_client.key("Run", "none")) is None


def test_a_lookup_tells_found_from_missing(datastore_client: Client) -> None:
    keys = [datastore_client.key("Run", number) for number in range(1, 5)]
    datastore_client.put_multi([entity(key, n=key.id) for key in keys[:2]])
    missing: list[Entity] = []

    found = datastore_client.get_multi(keys, missing=missing)

    assert {each["n"] for each in found} == {1, 2}
    assert {each.key for each in missing} == set(keys[2:])


def test_a_second_put_replaces_the_entity_whole(datastore_client: Client) -> None:
    key = datastore_client.key("Run", "a")
    datastore_client.put(entity(key, a=1, b=2))
    datastore_client.put(entity(key, b=3))

    assert datastore_client.get(key) == entity(key, b=3)


def test_a_deleted_entity_is_gone(datastore_client: Client) -> None:
    key = datastore_client.key("Run", "a")
    datastore_client.put(entity(key))
    datastore_client.delete_multi([key, datastore_client.key("Run", "never was")])

    assert datastore_client.get(key) is None


def test_an_incomplete_key_is_completed(datastore_client: Client) -> None:
    first, second = (entity(datastore_client.key("Run"), n=n) for n in (1, 2))

    datastore_client.put_multi([first, second])

    assert first.key.id != second.key.id
    assert datastore_client.get(second.key)["n"] == 2


def test_an_insert_of_what_exists_is_refused(make_datastore_client: MakeClient) -> None:
    client = make_datastore_client()
    key = client.key("Run", "a")
    mutate(client, "insert", entity(key, n=1))

    with pytest.raises(exceptions.AlreadyExists):
        mutate(client, "insert", entity(key, n=2))

    assert client.get(key)["n"] == 1


def test_an_update_of_what_is_missing_is_refused(datastore_client: Client) -> None:
    with pytest.raises(exceptions.NotFound):
        mutate(datastore_client, "update", entity(datastore_client.key("Run", "a")))


def test_allocated_ids_differ(datastore_client: Client) -> None:
    keys = datastore_client.allocate_ids(datastore_client.key("Run"), 20)
    more = datastore_client.allocate_ids(datastore_client.key("Run"), 20)

    assert len({key.id for key in keys + more}) == 40


def test_ids_can_be_reserved(datastore_client: Client) -> None:
    key = datastore_client.key("Run", 17)

    datastore_client.reserve_ids_sequential(key, 3)

    assert datastore_client.get(key) is None


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"namespace": "here"}, {"namespace": "there"}),
        ({"namespace": ""}, {"namespace": "there"}),
        ({}, {"database": "another"}),
        ({}, {"project": "another-project"}),
    ],
)
def test_namespaces_databases_and_projects_are_apart(
    make_datastore_client: MakeClient, here: dict[str, str], there: dict[str, str]
) -> None:
    kind = make_datastore_client().namespace
    client, other = make_datastore_client(**here), make_datastore_client(**there)

    client.put(entity(client.key(kind, "a")))

    assert other.get(other.key(kind, "a")) is None
    assert list(other.query(kind=kind).fetch()) == []
    assert [each.key.name for each in client.query(kind=kind).fetch()] == ["a"]
