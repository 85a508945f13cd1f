"""Queries through the real client; these hold for any Datastore."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.datastore import Client, Entity, Key
from google.cloud.datastore.query import And, Or, PropertyFilter

pytest_plugins = ["tests.support.datastore.fixtures"]


def put(client: Client, kind: str, values: list[dict[str, Any]]) -> list[Entity]:
    entities = []
    for number, properties in enumerate(values, 1):
        entities.append(Entity(client.key(kind, number)))
        entities[-1].update(properties)
    client.put_multi(entities)
    return entities


def found(query: Any, **options: Any) -> list[Any]:
    return [each.key.id_or_name for each in query.fetch(**options)]


def where(query: Any, *conditions: tuple[str, str, Any]) -> Any:
    for condition in conditions:
        query.add_filter(filter=PropertyFilter(*condition))
    return query


def test_a_few_entities_can_be_had_in_an_order_of_no_meaning(
    datastore_client: Client,
) -> None:
    put(datastore_client, "A", [{} for _ in range(400)])
    query = datastore_client.query(kind="A", order=["__scatter__"])
    query.keys_only()

    keys = found(query)

    assert 0 < len(keys) < 100
    assert keys != sorted(keys)
    assert found(query, limit=3) == keys[:3]


def test_keys_sort_by_path_ids_before_names(datastore_client: Client) -> None:
    client = datastore_client
    paths: list[tuple[Any, ...]] = [
        ("A", 2),
        ("A", 2, "A", 1),
        ("A", 2, "B", 1),
        ("A", 10),
        ("A", "10"),
        ("A", "2"),
        ("A", "b"),
        ("B", 1, "A", 1),
    ]
    client.put_multi([Entity(client.key(*path)) for path in reversed(paths)])

    results = client.query(kind="A").fetch()

    wanted = [client.key(*path) for path in paths if path[-2] == "A"]
    assert [each.key for each in results] == wanted


def test_an_ancestor_query_finds_the_ancestor_and_its_descendants(
    datastore_client: Client,
) -> None:
    client = datastore_client
    run = client.key("Run", "a")
    inside = [run, client.key("Shard", 1, parent=run)]
    inside.append(client.key("Failure", "x", parent=inside[1]))
    outside = [client.key("Run", "ab"), client.key("Shard", 1)]
    client.put_multi([Entity(key) for key in inside + outside])

    query = client.query(ancestor=run)

    assert {each.key for each in query.fetch()} == set(inside)


def test_a_range_of_keys_within_an_ancestor(datastore_client: Client) -> None:
    client = datastore_client
    run = client.key("Run", "a")

    def failure(number: int) -> Key:
        return client.key("Failure", f"{number:03}", parent=run)

    client.put_multi([Entity(failure(number)) for number in range(10)])

    query = where(
        client.query(kind="Failure", ancestor=run),
        ("__key__", ">", failure(3)),
        ("__key__", "<=", failure(6)),
    )

    assert found(query) == ["004", "005", "006"]


def test_what_is_not_indexed_is_not_found(datastore_client: Client) -> None:
    client = datastore_client
    hidden = Entity(client.key("Run", 1), exclude_from_indexes=("state",))
    hidden["state"] = "done"
    absent = Entity(client.key("Run", 2))
    client.put_multi([hidden, absent])

    assert found(where(client.query(kind="Run"), ("state", "=", "done"))) == []
    assert found(client.query(kind="Run", order=["state"])) == []
    assert found(client.query(kind="Run")) == [1, 2]


def test_a_list_is_found_by_any_of_its_values(datastore_client: Client) -> None:
    client = datastore_client
    put(client, "Run", [{"tags": ["a", "c"]}, {"tags": ["b"]}, {"tags": []}])

    assert found(where(client.query(kind="Run"), ("tags", "=", "c"))) == [1]
    between = where(client.query(kind="Run"), ("tags", ">", "a"), ("tags", "<", "c"))
    assert found(between) == [2]


def test_in_not_in_and_or(datastore_client: Client) -> None:
    client = datastore_client
    put(client, "Run", [{"n": n, "odd": n % 2 == 1} for n in range(6)])
    either = Or([PropertyFilter("n", "=", 0), PropertyFilter("n", "=", 5)])
    both = And([PropertyFilter("odd", "=", True), either])

    def run_filter(condition: Any) -> list[int]:
        return found(client.query(kind="Run").add_filter(filter=condition))

    assert run_filter(PropertyFilter("n", "IN", [1, 3, 9])) == [2, 4]
    assert run_filter(PropertyFilter("n", "NOT_IN", [0, 1, 2, 3])) == [5, 6]
    assert run_filter(both) == [6]


def test_a_keys_only_query_gives_keys_without_properties(
    datastore_client: Client,
) -> None:
    put(datastore_client, "Run", [{"n": 1}])
    query = datastore_client.query(kind="Run")
    query.keys_only()

    assert [dict(each) for each in query.fetch()] == [{}]


def test_a_projection_gives_the_properties_it_names(datastore_client: Client) -> None:
    put(datastore_client, "Run", [{"a": 1, "b": 2}, {"b": 3}])

    query = datastore_client.query(kind="Run", projection=["a"])

    assert [dict(each) for each in query.fetch()] == [{"a": 1}]


def test_more_results_than_one_batch_holds_come_in_order(
    datastore_client: Client,
) -> None:
    client = datastore_client
    entities = [Entity(client.key("Row", number)) for number in range(1, 901)]
    for first in range(0, 900, 450):
        client.put_multi(entities[first : first + 450])
    query = client.query(kind="Row")

    assert found(query) == list(range(1, 901))
    assert found(query, offset=650, limit=200) == list(range(651, 851))


def test_a_cursor_continues_after_the_last_result_though_it_was_deleted(
    datastore_client: Client,
) -> None:
    client = datastore_client
    entities = put(client, "Row", [{"n": n // 2} for n in range(10)])
    query = client.query(kind="Row", order=["-n"])

    page = query.fetch(limit=3)
    first = [each.key.id for each in page]
    client.delete(entities[first[-1] - 1].key)

    assert first + found(query, start_cursor=page.next_page_token) == [
        *(9, 10, 7, 8),
        *(5, 6, 3, 4, 1, 2),
    ]
    assert found(query, end_cursor=page.next_page_token) == first[:2]


def test_count_sum_and_average(datastore_client: Client) -> None:
    client = datastore_client
    put(client, "Shard", [{"done": n} for n in (1, 2, 6)] + [{"done": "no number"}])
    totals = client.aggregation_query(client.query(kind="Shard"))
    totals.count("shards").sum("done", "rows").avg("done", "mean")

    (results,) = totals.fetch()

    assert {each.alias: each.value for each in results} == {
        "shards": 4,
        "rows": 9,
        "mean": 3.0,
    }


@pytest.mark.parametrize(
    "query",
    [
        {"order": ["n"]},
        {"filters": [PropertyFilter("n", "=", 1)]},
    ],
)
def test_a_query_without_a_kind_knows_only_keys(
    datastore_client: Client, query: dict[str, Any]
) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        list(datastore_client.query(**query).fetch())


def test_an_inequality_must_sort_first(datastore_client: Client) -> None:
    query = datastore_client.query(kind="Run", order=["a"])

    with pytest.raises(exceptions.InvalidArgument):
        list(where(query, ("b", ">", 1)).fetch())
