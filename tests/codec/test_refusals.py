"""A value that can't travel is refused with its place, its type and advice."""

import datetime as dt
import functools
import io
import math
import os
import struct
import threading
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from zoneinfo import ZoneInfo

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import Q

from cloudtask import codec
from cloudtask.codec import dumps, dumps_call, loads, packing
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.codec import samples
from tests.codec.samples import (
    Colour,
    Frozen,
    Holder,
    Listed,
    Loose,
    Money,
    Point,
    Text,
)
from tests.testapp.models import Book, Cover

LOCK = threading.Lock()


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UnsupportedValue) as caught:
        dumps_call(args, kwargs)
    return str(caught.value)


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ([LOCK], {}, "args[0]"),
        ([1, LOCK], {}, "args[1]"),
        ([Holder(LOCK)], {}, "args[0].lock"),
        ([], {"items": [1, 2, 3, Holder(LOCK)]}, "kwargs['items'][3].lock"),
        ([(1, [LOCK])], {}, "args[0][1][0]"),
        ([{1: LOCK}], {}, "args[0][1]"),
        ([{"a": {"$": LOCK}}], {}, "args[0]['a']['$']"),
        ([{(1, 2): LOCK}], {}, "args[0][tuple]"),
        ([{LOCK: 1}], {}, "args[0]<key>"),
        ([{LOCK}], {}, "args[0]<element>"),
        ([Point(1, LOCK)], {}, "args[0].y"),
        ([slice(1, LOCK)], {}, "args[0].stop"),
        ([{"k" * 99: LOCK}], {}, "args[0]['" + "k" * 37 + "...']"),
        ([Book(title=LOCK)], {}, "args[0].title"),
        ([Book(data={"a": [LOCK]})], {}, "args[0].data['a'][0]"),
        ([Q(a=LOCK)], {}, "args[0][0][1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_names_the_place(args, kwargs, place):
    start = f"{place}: _thread.lock can't travel. Pass its id"
    assert refusal(*args, **kwargs).startswith(start)


def test_a_refusal_of_dumps_starts_at_the_given_root():
    with pytest.raises(UnsupportedValue, match=r"^value\[0\]: _thread.lock "):
        dumps([LOCK])
    with pytest.raises(UnsupportedValue, match=r"^result: _thread.lock "):
        dumps(LOCK, root="result")
    with pytest.raises(UnsupportedValue, match=r"^_thread.lock can't travel"):
        dumps(LOCK, root="")


def loose_point() -> Loose:
    point = Loose(1.0)
    point.label = "home"  # type: ignore[attr-defined]
    return point


def local_function():
    @dataclass
    class Local:
        x: int

    class Shade(Enum):
        DARK = 1

    def inner():
        return None

    return Local(1), Shade.DARK, inner


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Text("a"), "pass str(value)"),
        (Listed(), "pass list(value)"),
        (loose_point(), "attributes beside its fields"),
        ((n for n in ()), "Pass a list"),
        (samples.nameless, "top level"),
        (local_function()[0], "top level"),
        (local_function()[1], "top level"),
        (local_function()[2], "top level"),
        (samples.borrowed, "Wrap it in a function"),
        (math.floor, "Wrap it in a function"),
        (os.path.join, "add 'posixpath' to CLOUDTASK[\"TRUSTED_MODULES\"]"),
        (os.PathLike, 'to CLOUDTASK["TRUSTED_MODULES"]'),
        (functools.partial(samples.greet), "register its type"),
        ([].append, "Wrap it in a function"),
        (Book().save, "call the method in the task"),
        (math, "Pass the module's name"),
        (Money(Decimal(1)), "cloudtask.codec.register()"),
        (object(), "Pass its id or its data"),
        (ValueError("x"), "Pass its id or its data"),
        (SimpleUploadedFile("a", b""), "Pass its id or its data"),
        (Cover(image=SimpleUploadedFile("a", b"x")), "save the instance first"),
        (Book.objects, ".all()"),
        (Book.objects.raw("SELECT 1"), "Pass the SQL"),
        (dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()), ".tzinfo: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_refusal_says_what_to_do(value, says):
    assert says in refusal(value)


def test_a_zone_from_a_file_is_refused():
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    file = io.BytesIO(b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0")
    assert "has no key" in refusal(ZoneInfo.from_file(file))


def test_a_value_nested_100_levels_deep_travels_and_one_level_more_is_refused():
    assert loads(dumps(nested(100))) == nested(100)
    with pytest.raises(UnsupportedValue, match="nested more than 100 levels"):
        dumps(nested(101))


def test_tuples_dicts_and_dataclasses_travel_at_the_greatest_depth():
    deep = None
    for _ in range(100):
        deep = Frozen(1, deep)
    assert loads(dumps(deep)) == deep
    pairs: dict = {}
    for _ in range(99):
        pairs = {1: pairs}
    assert loads(dumps(pairs)) == pairs


def test_a_value_that_contains_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(UnsupportedValue, match=r"^value\[0\].*contains itself"):
        dumps(value)
    table: dict = {}
    table["me"] = (table,)
    with pytest.raises(UnsupportedValue, match="contains itself"):
        dumps(table)


@pytest.mark.parametrize("data", [b"[" * 1000, b"[" * 1000 + b"]" * 1000])
def test_a_payload_nested_too_deep_is_a_payload_error(data):
    with pytest.raises(PayloadError):
        loads(data)


def test_brackets_in_strings_are_no_depth():
    value = ["[" * 5000, "]", "{" * 700, '\\"[', [1]] * 200
    assert loads(dumps(value)) == value


def test_brackets_in_strings_hide_no_depth():
    with pytest.raises(PayloadError, match="nested"):
        loads(b'["]",' * 600 + b"1" + b"]" * 600)


def test_escapes_in_strings_hide_no_depth():
    for text in (rb'"]\\"', rb'"\"]"', rb'"\\\"]"'):
        with pytest.raises(PayloadError, match="nested"):
            loads(b"[" * 600 + text + b"]" * 600)


def test_an_escaped_mark_is_a_mark_too():
    assert loads(rb'{"\u0024":["tuple",[1]]}') == (1,)


def test_a_wide_value_is_not_deep():
    value = [[n] for n in range(2000)]
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"NaN",
        b"\xff\xfe",
        b"9" * 5000,
        b'{"$":1}',
        b'{"$":["int"]}',
        b'{"$":["int","0x1"],"a":1}',
        b'{"$":[[],1]}',
        b'{"$":["int","zz"]}',
        b'{"$":["int",null]}',
        b'{"$":["float","1.5"]}',
        b'{"$":["tuple","ab"]}',
        b'{"$":["dict",[[[],1]]]}',
        b'{"$":["fraction",[1,0]]}',
        b'{"$":["zone","../../etc/passwd"]}',
        b'{"$":["model","testapp.Nothing"]}',
        b'{"$":["enum",["tests.codec.samples:Plain","x"]]}',
        b'{"$":["met",0]}',
    ],
    ids=str,
)
def test_a_malformed_payload_is_a_payload_error(data):
    with pytest.raises(PayloadError):
        loads(data)


def test_an_unknown_tag_is_named():
    with pytest.raises(PayloadError, match="unknown tag 'gold'"):
        loads(b'{"$":["gold",1]}')


@pytest.mark.parametrize(
    "data", [b"1", b"[]", b"[[],[]]", b"[{},{}]", b'[[],{"$":["dict",[[1,2]]]}]']
)
def test_a_payload_that_is_no_call_is_a_payload_error(data):
    with pytest.raises(PayloadError):
        codec.loads_call(data)


def test_an_error_in_a_registered_encoder_is_placed():
    register_money(encode=lambda money: money.currency)
    assert refusal([Money(Decimal(1))]).startswith(
        "args[0][0]: tests.codec.samples.Money"
    )


def test_an_error_in_a_registered_decoder_is_a_payload_error():
    register_money(decode=lambda amount: 1 / 0)
    with pytest.raises(PayloadError, match="'money' value") as caught:
        loads(dumps(Money(Decimal(1))))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_registered_type_travels():
    register_money()
    assert loads(dumps({"due": Money(Decimal("1.50"))}))["due"].amount == Decimal(
        "1.50"
    )


def test_a_taken_tag_and_a_plain_type_are_not_registered():
    register_money()
    register_money()  # as when a module is reloaded
    for kind, tag in [(Text, "money"), (Text, "uuid"), (Text, "queryset"), (str, "s")]:
        with pytest.raises(ValueError, match=r"taken|plain JSON"):
            codec.register(kind, tag, str, str)


def register_money(encode=lambda money: money.amount, decode=Money):
    codec.register(Money, "money", encode, decode)


@pytest.fixture(autouse=True)
def forget_money():
    yield
    packing.packers.pop(Money, None)
    packing.decoders.pop("money", None)
    packing._registered.pop("money", None)
    packing.packer_for.cache_clear()


def test_a_refusal_is_also_a_type_error_and_leaves_no_private_class():
    with pytest.raises(TypeError) as caught:
        dumps(LOCK)
    assert type(caught.value) is UnsupportedValue


def test_one_colour_is_not_its_value():
    assert dumps(Colour.RED) != dumps("red")


def test_keys_of_thousands_of_digits_travel_and_are_named_by_their_type():
    value = {10**5000: 1}

    assert codec.loads(codec.dumps(value)) == value
    with pytest.raises(UnsupportedValue, match=r"value\[int\]: object"):
        codec.dumps({10**5000: object()})
