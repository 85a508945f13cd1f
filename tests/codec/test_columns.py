"""Values of columns by themselves: without the instance of a model around them.

Geometries, measures and rasters need libraries of C: see test_gis.py.
"""

from __future__ import annotations

import json
import pickle
import sys
from base64 import b64decode, b64encode
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from psycopg.types.multirange import Int4Multirange, Multirange
from psycopg.types.range import Int4Range, Range, TimestamptzRange

from cloudtask import codec
from cloudtask.codec import fields, tags
from cloudtask.exceptions import PayloadError, UnsupportedValue

pytestmark = pytest.mark.django_db
RANGE = "psycopg.types.range:Range"


def arrived(value: Any) -> Any:
    return codec.loads(codec.dumps(value))


def decoded(tag: str, *content: Any) -> Any:
    return codec.loads(json.dumps({"$": [tag, [*content]]}).encode())


@pytest.mark.parametrize(
    "value",
    [
        Range(1, 5),
        Range(None, Decimal("2.5"), "(]"),
        Range(date(2026, 1, 1), date(2026, 2, 1), "[]"),
        Range(empty=True),
        Int4Range(1, 2),
        TimestamptzRange(datetime(2026, 1, 1, tzinfo=UTC), None),
        Multirange([Range(1, 2), Range(5, None)]),
        Int4Multirange([Int4Range(1, 2)]),
        {"nights": [Range(1, 2)]},
    ],
)
def test_a_range_travels_by_itself(value: Any) -> None:
    found = arrived(value)
    assert (type(found), found, repr(found)) == (type(value), value, repr(value))


def test_the_end_of_a_range_that_cannot_travel_is_named() -> None:
    with pytest.raises(UnsupportedValue, match=r"value\[0\]\.upper: .*object can't"):
        codec.dumps([Range(1, object())])


class Rooms(Range):
    """A range of a project, which may hold more."""


def test_a_range_of_a_projects_own_class_is_refused() -> None:
    with pytest.raises(UnsupportedValue, match="Rooms can't travel"):
        codec.dumps(Rooms(1, 2))


@pytest.mark.parametrize(
    "content",
    [
        ("psycopg.types.range:RangeInfo", 1, 2, "[)"),
        ("psycopg.types.multirange:Multirange", 1, 2, "[)"),
        ("os:system", 1, 2, "[)"),
        (RANGE, 1, 2, "()("),
        (RANGE, 1, 2, 7),
        (RANGE, 1, 2),
    ],
)
def test_a_payload_makes_nothing_but_ranges(content: Any) -> None:
    with pytest.raises(PayloadError):
        decoded(tags.DB_RANGE, *content)


def test_a_payload_does_not_import_the_library(monkeypatch: Any) -> None:
    monkeypatch.delitem(sys.modules, "psycopg.types.range")
    with pytest.raises(PayloadError, match=r"has not imported"):
        decoded(tags.DB_RANGE, RANGE, 1, 2, "[)")
    assert "psycopg.types.range" not in sys.modules


# Types that a field of an installed model brings along.


class Phone:
    """A value that only its field can write, as those of many libraries are."""

    def __init__(self, number: str) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Phone) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


class PhoneField(models.CharField):
    def get_prep_value(self, value: Any) -> Any:
        return value.number if isinstance(value, Phone) else value

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, Phone) else Phone(value)


class AnythingField(models.TextField):
    """Pickles what it gets, as such fields of libraries do."""

    def get_prep_value(self, value: Any) -> Any:
        return b64encode(pickle.dumps(value)).decode()

    def to_python(self, value: Any) -> Any:
        return pickle.loads(b64decode(value)) if isinstance(value, str) else value


class Contact(models.Model):
    anything = AnythingField()
    phone = PhoneField(max_length=20)

    class Meta:
        app_label = "testapp"
        managed = False

    def __str__(self) -> str:
        return str(self.phone)


class Unwritten:
    """A value that no field writes but one that pickles."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unwritten)

    def __hash__(self) -> int:
        return 1


def test_a_value_travels_as_a_field_of_an_installed_model_writes_it() -> None:
    value = {"numbers": [Phone("110"), Phone("112")]}
    assert arrived(value) == value
    assert b'["testapp.Contact","phone","110"]' in codec.dumps(value)


def test_an_instance_keeps_to_its_own_field() -> None:
    contact = Contact(phone=Phone("110"), anything=None)
    assert arrived(contact).phone == Phone("110")
    assert b"of-field" not in codec.dumps(contact)


@pytest.mark.parametrize(
    "value", [Unwritten(), Contact(anything=Unwritten(), phone="")]
)
def test_a_field_that_takes_anything_writes_nothing(value: Any) -> None:
    with pytest.raises(UnsupportedValue, match="Unwritten can't travel"):
        codec.dumps(value)


def test_a_field_that_takes_anything_reads_nothing() -> None:
    pickled = AnythingField().get_prep_value(Unwritten())
    with pytest.raises(PayloadError, match="no values of its own"):
        decoded(tags.OF_FIELD, "testapp.Contact", "anything", pickled)
    prepared = {"$": [tags.PREPARED, pickled]}
    with pytest.raises(PayloadError, match="no values of its own"):
        decoded(tags.INSTANCE, *("testapp.Contact", None, True), {"anything": prepared})


@pytest.mark.parametrize(
    "content",
    [
        ("testapp.Nothing", "phone", "110"),
        ("testapp.Contact", "email", "110"),
        ("testapp.Contact", "id", 7),
        ("testapp.Book", "author", 7),
        ("testapp.Contact", "phone", {"$": ["model", "testapp.Contact"]}),
    ],
)
def test_a_payload_asks_a_field_only_for_values_of_its_own(content: Any) -> None:
    with pytest.raises(PayloadError):
        decoded(tags.OF_FIELD, *content)


def test_a_field_is_tried_with_a_stranger_once() -> None:
    field: Any = Contact._meta.get_field("phone")
    fields.takes_anything.cache_clear()
    for number in ("1", "2", "3"):
        codec.dumps(Contact(phone=Phone(number), anything=None))
    assert fields.takes_anything.cache_info().misses == 1
    assert not fields.takes_anything(field)
