"""Queries against a naive model: lists, sorted and filtered in Python."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import uuid
from typing import Any

from google.cloud.datastore import Client, Entity
from google.cloud.datastore.query import PropertyFilter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest_plugins = ["tests.support.datastore.fixtures"]

MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# In Datastore's order, of all types: the index of a value is its rank.
RANKED: list[Any] = [
    None,
    -5,
    0,
    7,
    MOMENT,
    MOMENT + dt.timedelta(microseconds=1),
    False,
    True,
    b"",
    b"\x00",
    "A",
    "Z",
    "a",
    "ab",
    "ž",
    -0.5,
    37.5,
    float("inf"),
]
OPERATORS = ["=", "<", "<=", ">", ">=", "!="]


def put(client: Client, kind: str, values: list[dict[str, Any]]) -> None:
    entities = []
    for number, properties in enumerate(values, 1):
        entities.append(Entity(client.key(kind, number)))
        entities[-1].update(properties)
    client.put_multi(entities)


def found(query: Any, **options: Any) -> list[Any]:
    return [each.key.id_or_name for each in query.fetch(**options)]


def where(query: Any, *conditions: tuple[str, str, Any]) -> Any:
    for condition in conditions:
        query.add_filter(filter=PropertyFilter(*condition))
    return query


def test_values_of_all_types_have_one_order(datastore_client: Client) -> None:
    put(datastore_client, "Value", [{"v": value} for value in reversed(RANKED)])

    results = datastore_client.query(kind="Value", order=["v"]).fetch()

    assert [each["v"] for each in results] == RANKED


@functools.cache
def matches(operator: str, value: int, bound: int) -> bool:
    """The naive model: ranks are places in RANKED."""
    return {
        "=": value == bound,
        "<": value < bound,
        "<=": value <= bound,
        ">": value > bound,
        ">=": value >= bound,
        "!=": value != bound,
    }[operator]


ranks = st.integers(0, len(RANKED) - 1)
# At most one "!=" goes into a query.
filters = st.lists(
    st.tuples(st.sampled_from(OPERATORS), ranks), max_size=3, unique_by=lambda f: f[0]
)
rows = st.lists(st.fixed_dictionaries({"a": ranks}, optional={"b": ranks}), max_size=12)
property_test = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@property_test
@given(rows=rows, tests=filters)
def test_filters_find_what_a_naive_model_finds(
    datastore_client: Client,
    rows: list[dict[str, int]],
    tests: list[tuple[str, int]],
) -> None:
    kind = store(datastore_client, rows)
    query = datastore_client.query(kind=kind)

    where(query, *(("a", operator, RANKED[bound]) for operator, bound in tests))

    wanted = [
        number
        for number, row in enumerate(rows, 1)
        if all(matches(operator, row["a"], bound) for operator, bound in tests)
    ]
    assert sorted(found(query)) == wanted


@property_test
@given(
    rows=rows,
    directions=st.tuples(st.sampled_from(["", "-"]), st.sampled_from(["", "-"])),
    offset=st.integers(0, 5),
    page=st.integers(1, 5),
)
def test_pages_in_any_order_add_up_to_what_a_naive_model_sorts(
    datastore_client: Client,
    rows: list[dict[str, int]],
    directions: tuple[str, str],
    offset: int,
    page: int,
) -> None:
    kind = store(datastore_client, rows)
    names = [
        f"{direction}{name}" for name, direction in zip("ab", directions, strict=True)
    ]
    query = datastore_client.query(kind=kind, order=names)

    wanted = [number for number, row in enumerate(rows, 1) if "b" in row]
    for name in reversed(names):
        wanted.sort(
            key=lambda number, name=name: rows[number - 1][name[-1]],
            reverse=name.startswith("-"),
        )
    assert found(query) == wanted
    assert found(query, offset=offset, limit=page) == wanted[offset : offset + page]
    assert list(itertools.chain.from_iterable(pages(query, page))) == wanted


def store(client: Client, rows: list[dict[str, int]]) -> str:
    kind = uuid.uuid4().hex
    values = [{name: RANKED[rank] for name, rank in row.items()} for row in rows]
    put(client, kind, values)
    return kind


def pages(query: Any, size: int) -> Any:
    page = query.fetch(limit=size)
    yield [each.key.id for each in page]
    while page.next_page_token:
        page = query.fetch(limit=size, start_cursor=page.next_page_token)
        yield [each.key.id for each in page]
