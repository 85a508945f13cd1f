"""Enum members, dataclasses, functions and the like travel by import path."""

import http
from dataclasses import make_dataclass

import pytest
from django.db.models.functions import Lower
from django.db.models.utils import create_namedtuple_class

from cloudtask.codec import dumps, loads
from cloudtask.exceptions import PayloadError
from tests.codec import samples
from tests.codec.samples import (
    Bit,
    Box,
    Colour,
    Counted,
    Frozen,
    Outer,
    Pair,
    Plain,
    Point,
    Right,
    Size,
    Word,
    is_same,
)
from tests.testapp.models import Book, Genre

MEMBERS = [Colour.RED, Colour.BLUE, Size.LARGE, Word.YES, Genre.SCIENCE]
FLAGS = [Right.READ | Right.WRITE, Right(0), Right.READ, Bit(9), ~Bit.ONE]


def travelled(data: bytes, old: str, new: str):
    """The value that arrives after a deploy renamed `old` to `new` in the payload."""
    assert old.encode() in data
    return loads(data.replace(old.encode(), new.encode()))


@pytest.mark.parametrize("member", [*MEMBERS, Outer.Inner.ONE, http.HTTPStatus.OK])
def test_an_enum_member_arrives_as_the_member(member):
    assert loads(dumps(member)) is member


def test_an_alias_arrives_as_its_member():
    assert loads(dumps(Colour.CRIMSON)) is Colour.RED


@pytest.mark.parametrize("flag", FLAGS)
def test_a_combination_of_flags_arrives(flag):
    assert is_same(loads(dumps(flag)), flag)


def test_an_enum_member_as_a_key_keeps_its_type():
    assert is_same(
        loads(dumps({Word.YES: 1, Size.SMALL: 2})), {Word.YES: 1, Size.SMALL: 2}
    )


def test_a_member_that_is_gone_is_a_payload_error():
    with pytest.raises(PayloadError, match="no member 'GREEN'"):
        travelled(dumps(Colour.BLUE), "BLUE", "GREEN")


@pytest.mark.parametrize(
    "value",
    [
        Plain("a", [1, (2,)]),
        Frozen(1, Frozen({2: 3})),
        Box(1),
        Box[int](1),
        Frozen(Point(1.0, -0.0)),
    ],
)
def test_a_dataclass_arrives(value):
    assert is_same(loads(dumps(value)), value)


def test_a_dataclass_is_made_without_its_init():
    arrived = loads(dumps(Counted(5)))
    assert vars(arrived) == {"start": -5, "made": 6, "beside": "set by hand"}


def test_a_cached_property_of_a_dataclass_stays_behind():
    value = Counted(5)
    assert value.lock
    assert "lock" not in vars(loads(dumps(value)))


def test_a_field_that_was_removed_is_dropped():
    arrived = travelled(dumps(Plain("a")), '"name":"a"', '"name":"a","old":1')
    assert vars(arrived) == {"name": "a", "items": []}


def test_a_field_that_was_added_takes_its_default():
    assert travelled(dumps(Plain("a", [1])), '"items"', '"old"').items == []


def test_a_field_that_was_added_without_a_default_is_a_payload_error():
    with pytest.raises(PayloadError, match="has no 'name'"):
        travelled(dumps(Plain("a")), '"name"', '"old"')


@pytest.mark.parametrize("value", [Point(1.0), Pair((1,), {2})])
def test_a_namedtuple_arrives(value):
    assert is_same(loads(dumps(value)), value)


def test_a_field_added_to_a_namedtuple_takes_its_default():
    assert travelled(dumps(Point(1.0, 5.0)), '"y"', '"z"') == Point(1.0, 0.0)
    with pytest.raises(PayloadError, match="has no 'left'"):
        travelled(dumps(Pair(1, 2)), '"left"', '"up"')


def test_a_row_of_values_list_arrives():
    row = create_namedtuple_class("title", "pages")("x", 3)
    assert is_same(loads(dumps(row)), row)


@pytest.mark.parametrize("function", [samples.greet, Outer.static])
def test_a_function_arrives_as_itself(function):
    assert loads(dumps(function)) is function


@pytest.mark.parametrize(
    "kind", [Plain, Colour, Outer.Inner, Book, Genre, Lower, http.HTTPStatus, dict]
)
def test_a_class_arrives_as_itself(kind):
    assert loads(dumps(kind)) is kind


def test_a_model_is_named_by_its_label():
    assert dumps(Book) == b'{"$":["model","testapp.Book"]}'


def test_a_dataclass_that_can_not_be_imported_is_refused():
    with pytest.raises(PayloadError, match="Made"):
        dumps(make_dataclass("Made", ["x"])(1))
