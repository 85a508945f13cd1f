"""When schedules are due: changes of the clock, zones, intervals, and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cloudtask import Schedule, task
from cloudtask.exceptions import ConfigurationError
from cloudtask.schedules import declared
from cloudtask.schedules.occurrences import occurrences
from tests.schedules import minutes

PARIS = ZoneInfo("Europe/Paris")
HOUR = timedelta(hours=1)


def between(every: Any, zone: str, start: str, end: str) -> list[str]:
    """The moments, in UTC."""
    after, until = (
        datetime.fromisoformat(at).replace(tzinfo=UTC) for at in (start, end)
    )
    found = occurrences(every, ZoneInfo(zone), after, until)
    return [f"{at:%d %H:%M}" for at in found]


SPRING = ("2026-03-28T12:00", "2026-03-30T12:00")  # Paris: 02:00 to 03:00 on the 29th
AUTUMN = ("2026-10-24T12:00", "2026-10-26T12:00")  # Paris: 03:00 to 02:00 on the 25th


def test_a_fixed_time_that_is_skipped_is_due_once_when_the_clock_has_moved() -> None:
    assert between("30 2 * * *", "Europe/Paris", *SPRING) == ["29 01:00", "30 00:30"]


def test_a_fixed_time_that_comes_twice_is_due_the_first_time() -> None:
    assert between("30 2 * * *", "Europe/Paris", *AUTUMN) == ["25 00:30", "26 01:30"]


def test_a_wildcard_follows_real_time() -> None:
    found = between(
        "30 * * * *", "Europe/Paris", "2026-10-24T23:00", "2026-10-25T03:00"
    )
    assert found == ["24 23:30", "25 00:30", "25 01:30", "25 02:30"]
    found = between(
        "30 * * * *", "Europe/Paris", "2026-03-29T00:00", "2026-03-29T03:00"
    )
    assert found == ["29 00:30", "29 01:30", "29 02:30"]


@pytest.mark.parametrize(
    "start", [f"2026-10-25T{h:02}:{m:02}" for h in (0, 1) for m in (0, 29, 30, 31, 59)]
)
def test_a_start_inside_the_repeated_hour_changes_nothing(start: str) -> None:
    after = datetime.fromisoformat(start).replace(tzinfo=UTC)
    whole = occurrences("30 2 * * *", PARIS, after - 48 * HOUR, after + 48 * HOUR)
    expected = [at for at in whole if at > after]

    assert [*occurrences("30 2 * * *", PARIS, after, after + 48 * HOUR)] == expected


ZONES = [
    *("Europe/Paris", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe"),
    *("Pacific/Chatham", "Antarctica/Troll", "Asia/Tehran", "Africa/Casablanca"),
    *("America/St_Johns", "Asia/Kathmandu", "UTC", "Europe/Dublin", "Asia/Beirut"),
    *("America/Havana", "Pacific/Auckland", "Asia/Jerusalem", "Atlantic/Azores"),
]
EXPRESSIONS = [
    *("30 2 * * *", "0 0 * * *", "15 1,3 * * *", "*/20 * * * *", "0 * * * *"),
    *("5 0-4 * * 0", "45 23 1 * *", "0 3 29-31 * 6"),
]


@pytest.mark.exhaustive(sample=24)
@pytest.mark.parametrize("text", EXPRESSIONS)
@pytest.mark.parametrize("name", ZONES)
def test_the_moments_are_those_of_a_plain_search(name: str, text: str) -> None:
    zone = ZoneInfo(name)
    for month in (3, 4, 9, 10, 11):
        after = datetime(2025, month, 1, tzinfo=UTC)
        until = after + timedelta(days=31)
        # The search begins before, so that it knows what the clock has skipped.
        expected = minutes.search(text, zone, after - timedelta(days=2), until)

        assert [*occurrences(text, zone, after, until)] == [
            at for at in expected if at > after
        ]


def test_the_call_of_a_day_that_a_zone_has_skipped_is_due_at_its_end() -> None:
    found = between(
        "0 12 * * *", "Pacific/Apia", "2011-12-28T12:00", "2012-01-02T12:00"
    )

    # The 30th of December was skipped: its call is due when the 31st begins.
    expected = ["28 22:00", "29 22:00", "30 10:00", "30 22:00", "31 22:00", "01 22:00"]
    assert found == expected


def test_intervals_begin_at_the_epoch() -> None:
    found = between(timedelta(hours=7), "UTC", "1970-01-02T00:00", "1970-01-02T12:00")

    assert found == ["02 04:00", "02 11:00"]


def test_the_start_is_left_out_and_the_end_is_not() -> None:
    found = between("0 * * * *", "UTC", "2026-01-01T01:00", "2026-01-01T03:00")

    assert found == ["01 02:00", "01 03:00"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("* * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("", "five fields"),
        ("61 * * * *", "61 .* is wrong"),
        ("0 0 31 2 *", "is wrong"),
        (timedelta(seconds=59), "once a minute"),
        (timedelta(0), "once a minute"),
        (-timedelta(days=1), "once a minute"),
        (60, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_schedule_is_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Schedule(given)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"tz": "Europe/Atlantis"}, "no time zone 'Europe/Atlantis'"),
        ({"tz": "../../etc/passwd"}, "no time zone"),
        ({"catch_up": "some"}, "catch_up is 'last' or 'all' or 'none'"),
        ({"window": -1}, "window of a schedule"),
        ({"spread": timedelta(days=40)}, "spread of a schedule"),
    ],
)
def test_wrong_values_of_a_schedule_are_refused(values: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Schedule("0 0 * * *", **values)


def test_the_decorator_declares_schedules_and_checks_them() -> None:
    nightly = task(schedule="30 2 * * *")(_report)
    assert [*declared()] == [nightly.path]
    with pytest.raises(ConfigurationError, match=r"takes_two.*missing.*'b'"):
        task(schedule=Schedule("0 0 * * *", args=(1,)))(_takes_two)
    with pytest.raises(ConfigurationError, match="schedule and unique"):
        task(schedule="0 0 * * *", unique=True)(_unique)
    with pytest.raises(ConfigurationError, match="give each a key"):
        task(schedule=["0 0 * * *", "0 1 * * *"])(_several)
    with pytest.raises(ConfigurationError, match="Two schedules have the key 'k'"):
        task(schedule=[Schedule("0 0 * * *", key="k")] * 2)(_several)


def _report() -> None: ...


def _takes_two(a: int, b: int) -> None: ...


def _unique() -> None: ...


def _several() -> None: ...
