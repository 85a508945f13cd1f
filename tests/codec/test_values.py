"""Values of Python's own arrive exactly as they were."""

import datetime as dt
import ipaddress
import math
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from zoneinfo import ZoneInfo

import pytest
from django.utils.safestring import SafeString, mark_safe

from cloudtask.codec import dumps, dumps_call, loads, loads_call
from tests.codec.samples import is_same

BERLIN = ZoneInfo("Europe/Berlin")
NAMED = dt.timezone(dt.timedelta(hours=5, minutes=45, microseconds=3), "Kathmandu")
BARE = dt.timezone(-dt.timedelta(hours=3, seconds=1))

VALUES = [
    *[None, True, False, 0, 1, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1],
    *[10**5000, -(10**5000), 0.0, -0.0, 1.0, 1e16, 5e-324, 1.7976931348623157e308],
    *[math.nan, math.inf, -math.inf],
    *["", "é", "\n\u2028\x00", "\ud800", "\ud83d\ude00", "😀", "$", '"\\'],
    *[b"", b"\x00\xff", bytearray(b"abc"), memoryview(b"abc")],
    *[[], [1, [2]], (), (1, (2, [3])), {}, {"a": 1}, {"b": 1, "a": 2}],
    *[
        {1: 2},
        {"1": 1, 1: 2},
        {(1, "x"): [1]},
        {None: 1, "$": 2},
        {"$": ["int", "0x1"]},
    ],
    *[set(), {1, "a", (2,)}, {1.5}, frozenset({b"x", frozenset()})],
    OrderedDict(b=1, a=2),
    Counter("abca"),
    deque([1, 2], maxlen=3),
    deque([(1,)]),
    *[defaultdict(list, {"a": [1]}), defaultdict(None, {2: 3}), defaultdict(int)],
    *[dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    *[dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(1, 1, 1), dt.datetime.max],
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=NAMED),
    dt.datetime(2024, 1, 1, tzinfo=BARE),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    dt.datetime(2024, 10, 27, 2, 30, fold=1),
    *[dt.time(), dt.time(23, 59, 59, 999999), dt.time(1, tzinfo=dt.UTC)],
    *[dt.time(1, tzinfo=BERLIN, fold=1), dt.time(1, tzinfo=NAMED), dt.time(1, fold=1)],
    *[
        dt.timedelta(),
        dt.timedelta.max,
        dt.timedelta.min,
        dt.timedelta(microseconds=-1),
    ],
    *[dt.UTC, NAMED, BARE, dt.timezone(dt.timedelta(0), "UTC"), BERLIN],
    *map(
        Decimal, ["1", "1.0", "1.00", "-0", "0E+5", "1E+999", "NaN", "sNaN12", "-inf"]
    ),
    *[Fraction(1, 3), Fraction(-(10**5000), 7), Fraction(0)],
    *[complex(1, 2), complex(-0.0, math.nan), complex(math.inf, -0.0)],
    uuid.UUID("12345678123456781234567812345678"),
    *[Path("/a b/é"), Path(), PurePosixPath("/x/../y"), PureWindowsPath("C:\\x")],
    *[range(5), range(0), range(10, 0, -3), range(10**20)],
    *[slice(None), slice(1, 2), slice("a", None, (1,))],
    *[ipaddress.ip_address("::1"), ipaddress.ip_address("10.0.0.1")],
    *[ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("10.0.0.1/8")],
    *[ipaddress.ip_network("::/64"), ipaddress.ip_interface("::1/64")],
    *[mark_safe("<b>"), int, list, type(None)],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_it_was(value):
    assert is_same(loads(dumps(value)), value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_it_was_from_within_others(value):
    assert is_same(loads(dumps([{"k": (value,)}])), [{"k": (value,)}])


def test_the_zone_and_the_fold_of_a_moment_arrive():
    moment = dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)
    arrived = loads(dumps(moment))
    assert arrived.tzinfo is BERLIN
    assert arrived.fold == 1
    assert arrived.utcoffset() == moment.utcoffset()


def test_the_name_of_a_fixed_offset_arrives():
    assert [loads(dumps(zone)).tzname(None) for zone in (NAMED, BARE)] == [
        "Kathmandu",
        BARE.tzname(None),
    ]


def test_utc_arrives_as_the_one_utc():
    assert loads(dumps(dt.datetime(2024, 1, 1, tzinfo=dt.UTC))).tzinfo is dt.UTC


def test_a_decimal_arrives_exactly_whatever_the_precision_in_force():
    with localcontext() as context:
        context.prec = 2
        assert str(loads(dumps(Decimal("1.23456")))) == "1.23456"


def test_a_frozen_moment_of_freezegun_travels_as_what_it_stands_for():
    frozen = type("FakeDatetime", (dt.datetime,), {"__module__": "freezegun.api"})
    moment = frozen(2024, 1, 1, tzinfo=dt.UTC)
    assert is_same(loads(dumps(moment)), dt.datetime(2024, 1, 1, tzinfo=dt.UTC))


def test_the_order_of_a_dict_arrives():
    assert list(loads(dumps({"b": 1, "a": 2, 3: 4}))) == ["b", "a", 3]


def test_a_defaultdict_arrives_with_its_factory():
    arrived = loads(dumps(defaultdict(list)))
    arrived["new"].append(1)
    assert arrived == {"new": [1]}


def test_a_deque_arrives_with_its_length():
    assert loads(dumps(deque([1], maxlen=3))).maxlen == 3


def test_a_safe_string_stays_safe():
    assert type(loads(dumps(mark_safe("<b>")))) is SafeString


def test_equal_sets_give_equal_bytes():
    assert dumps({"b", "a", 1, (2,)}) == dumps({(2,), 1, "a", "b"})


def test_plain_data_is_plain_json_on_one_line():
    value = {"a": [1, 2.5, None, True, "é\n"]}
    assert dumps(value) == '{"a":[1,2.5,null,true,"é\\n"]}'.encode()


def test_a_change_after_dumps_changes_nothing():
    value = {"items": [1]}
    data = dumps(value)
    value["items"].append(2)
    assert loads(data) == {"items": [1]}


def test_a_call_arrives_as_args_and_kwargs():
    args, kwargs = (7, (1,), [2]), {"template": "rich", "$": {3}}
    assert is_same(loads_call(dumps_call(args, kwargs)), (args, kwargs))


def test_a_plain_call_is_plain_json():
    assert dumps_call((7,), {"a": "b"}) == b'[[7],{"a":"b"}]'
