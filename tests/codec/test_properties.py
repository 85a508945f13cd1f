"""Whatever hypothesis comes up with arrives as it was, or is refused by name."""

import datetime as dt
import json
from contextlib import suppress
from zoneinfo import ZoneInfo

from django.db.models import Count, Exists, F, OuterRef, Prefetch, Q
from django.utils.translation import gettext_lazy, ngettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from cloudtask.codec import dumps, loads
from cloudtask.codec.packing import decoders
from cloudtask.codec.tags import OF_DJANGO
from cloudtask.exceptions import PayloadError
from tests.codec.samples import (
    Bit,
    Colour,
    Counted,
    Frozen,
    Pair,
    Point,
    Right,
    is_same,
)
from tests.testapp.models import Author, Book

ZONES = st.one_of(
    st.sampled_from([dt.UTC, ZoneInfo("Europe/Bratislava"), ZoneInfo("Asia/Kolkata")]),
    st.builds(
        lambda seconds, name: dt.timezone(dt.timedelta(seconds=seconds), *name),
        st.integers(-86399, 86399),
        st.lists(st.text(max_size=5), max_size=1),
    ),
)
TEXT = st.text(st.characters(), max_size=20)  # lone surrogates too
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.complex_numbers(),
    TEXT,
    st.binary(max_size=20),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.timedeltas(),
    st.datetimes(timezones=st.none() | ZONES),
    st.times(timezones=st.none() | ZONES),
    st.sampled_from([*Colour, *Right, Right.READ | Right.WRITE, Bit(7), Bit(0)]),
)
KEYS = st.one_of(
    st.integers(),
    TEXT,
    st.just("$"),
    st.dates(),
    st.tuples(st.booleans(), TEXT),
    st.sampled_from(Colour),
)


def nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(TEXT, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.sets(KEYS, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Frozen, inner),
    )


VALUES = st.recursive(SCALARS, nested, max_leaves=12)


@given(VALUES)
def test_any_value_arrives_as_it_was(value):
    data = dumps(value)
    assert b"\n" not in data
    assert is_same(loads(data), value)


@given(VALUES, st.data())
def test_damaged_bytes_give_a_payload_error_or_a_value(value, data):
    damaged = bytearray(dumps(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    with suppress(PayloadError):
        loads(bytes(damaged))


def rich_payloads() -> list[bytes]:
    book = Book(title="x", author=Author(pk=1, name="a"), data={"a": [1]})
    values = [
        Book.objects.filter(pages__gt=F("id") + 1, title="x").only("title"),
        Author.objects.annotate(n=Count("books")).prefetch_related(Prefetch("books")),
        Q(a=1) | ~Q(b=Exists(Book.objects.filter(pk=OuterRef("pk")))),
        [ngettext_lazy("a", "b", "n"), gettext_lazy("Yes"), Counted(1), Right(3)],
    ]
    return [*map(dumps, values), dumps(book), dumps(book, wipe_related_caches=False)]


@given(st.deferred(lambda: st.sampled_from(rich_payloads())), st.data())
def test_damaged_bytes_of_djangos_kinds_give_a_payload_error_or_a_value(payload, data):
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        length = data.draw(st.integers(0, 6))
        damaged[start : start + length] = data.draw(st.binary(max_size=3))
    with suppress(PayloadError):
        loads(bytes(damaged))


TAGS = st.sampled_from(sorted(set(decoders) | OF_DJANGO))
PARTS = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.text(max_size=3),
    st.sampled_from(["testapp.Book", "tests.codec.samples:Point", "title", "5.2"]),
)
PAYLOADS = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(["model", "using", "query", "x"]), inner),
        st.builds(lambda tag, payload: {"$": [tag, payload]}, TAGS, inner),
    ),
    max_leaves=8,
)


@given(TAGS, PAYLOADS)
def test_any_payload_under_any_tag_gives_a_payload_error_or_a_value(tag, payload):
    with suppress(PayloadError):
        loads(json.dumps({"$": [tag, payload]}).encode())


@given(st.binary(max_size=40))
def test_any_bytes_give_a_payload_error_or_a_value(data):
    with suppress(PayloadError):
        loads(data)
