"""Any queryset that is accepted is walked exactly: querysets made of Django's whole
expression library, for any number of shards and any size of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.db import DatabaseError, models, transaction
from django.db.models import aggregates, functions
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from cloudtask.codec import dumps, loads
from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration.sources import QuerySetSource
from cloudtask.iteration.sources import walkable as walks
from cloudtask.iteration.sources.pages import Reader, Unreadable
from cloudtask.iteration.sources.walkable import walkable
from tests.iteration import expressions
from tests.iteration.expressions import Made, querysets
from tests.testapp.models import Author, Book, Label, Novel

pytestmark = pytest.mark.usefixtures("books")
SHARDS, SIZES = st.integers(1, 7), st.sampled_from([1, 2, 3, 5, 100])
SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


@pytest.fixture
def books(db: None) -> None:
    authors = [Author.objects.create(name=name) for name in "ab"]
    labels = [Label.objects.create(name=name) for name in "xyz"]
    for number in range(24):
        kind = Novel if number % 4 == 1 else Book
        book = kind.objects.create(
            title=str(number % 5),
            author=[*authors, None][number % 3],
            pages=number % 4,
            price=[None, "1.50", "2.00"][number % 3],
            published=[None, expressions.MOMENT][number % 2],
            data=[{}, {"a": number % 3, "list": [1]}][number % 2],
        )
        book.labels.set(labels[: number % 4])


def called(queryset: Any, shards: int, size: int) -> Iterator[Any]:
    """The keys that a run of so many shards and rows a page would call."""
    source = QuerySetSource(loads(dumps(queryset)))
    for piece in source.plan(shards, include_new=False).pieces:
        reader = Reader(source, clock=lambda: 0.0)
        bounds = piece.bounds
        while True:
            reader.near = size
            page = reader.read(bounds)
            assert page is not None
            assert not isinstance(page, Unreadable)
            yield from page.keys
            if page.is_last:
                break
            bounds = type(bounds)(page.end, bounds.high)


def compared(made: Made | None, shards: int, size: int) -> tuple[list[Any], set[Any]]:
    """The keys that are called and those of the queryset. Both are empty if it is
    refused, or can't be evaluated at all. Raises DatabaseError if only the walk
    fails."""
    if made is None:
        return [], set()
    try:
        with transaction.atomic():
            expected = {getattr(row, "pk", None) for row in made.queryset}
    except Exception:  # noqa: BLE001  databases, drivers and fields have many reasons
        return [], set()
    try:
        accepted = walkable(made.queryset)
    except UnsupportedValue:
        return [], set()
    with transaction.atomic():
        return list(called(accepted, shards, size)), expected


def is_exact(seen: list[Any], expected: set[Any]) -> bool:
    return len(seen) == len(set(seen)) and set(seen) == expected


def is_walked(*choices: Any) -> bool:
    try:
        return is_exact(*compared(*choices))
    except DatabaseError:
        return False


@pytest.mark.exhaustive(sample=1)
@settings(max_examples=4 * settings.default.max_examples, **SETTINGS)
@given(querysets(), SHARDS, SIZES)
def test_the_rows_called_are_those_of_the_queryset(made, shards, size):
    seen, expected = compared(made, shards, size)

    assert len(seen) == len(set(seen)), "a row was called twice"
    assert set(seen) == expected


# The first is found soonest: a normal run tries it alone.
OFF = {
    "joins never repeat rows": ("relation", "_repeating", lambda query: set()),
    "windows and aggregates are not looked for": (
        "window",
        "_entangled",
        lambda queryset: None,
    ),
    "an order never changes the rows": (
        "aggregate",
        "_unordered",
        lambda queryset: queryset.order_by(),
    ),
}


@pytest.mark.exhaustive(sample=3)
@pytest.mark.parametrize("fault", OFF)
def test_the_property_finds_what_a_missing_check_lets_pass(monkeypatch, fault):
    focus, name, weak = OFF[fault]
    monkeypatch.setattr(walks, name, weak)

    find(
        st.tuples(querysets(focus), SHARDS, SIZES),
        lambda one: not is_walked(*one),
        settings=settings(
            max_examples=20_000,
            derandomize=True,
            phases=[Phase.generate],
            **SETTINGS,
        ),
    )


def test_every_expression_of_django_is_used():
    used = expressions.SPECIAL | set(expressions.OF_WINDOWS) | expressions.AT_RANDOM
    used |= expressions.UNUSED | set(expressions.AGGREGATES) | {"Aggregate"}
    for of_kind in expressions.FUNCTIONS.values():
        used |= set(of_kind)

    assert {*functions.__all__, *aggregates.__all__} <= used, django.VERSION


PLAIN = [
    lambda: Book.objects.filter(pages__gt=1),
    lambda: Book.objects.exclude(labels__name="x"),
    lambda: Book.objects.filter(labels__name="x"),
    lambda: Book.objects.annotate(v=functions.Length("title")).filter(v__gt=0),
    lambda: Book.objects.annotate(n=models.Count("labels")).filter(n__gt=0),
    lambda: Book.objects.alias(
        n=models.Window(functions.RowNumber(), order_by="id")
    ).filter(n__gt=1),
    lambda: Book.objects.filter(author__in=[1]).order_by("author__name"),
    lambda: Book.objects.annotate(n=models.Count("labels")).order_by("author__name"),
    lambda: Book.objects.order_by("labels__name"),
]


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_usual_querysets_are_accepted(number):
    """Querysets that are refused would make the property above hold of nothing."""
    assert walkable(PLAIN[number]()) is not None
