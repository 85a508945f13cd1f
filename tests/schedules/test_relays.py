"""Two relays that tick at once, for a virtual month over both changes of the clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from cloudtask import Schedule
from cloudtask.models import OutboxMessage, ScheduleRow
from cloudtask.schedules import Declared, declare, declared
from cloudtask.schedules.ticking import TickReport, tick
from cloudtask.sending.relay import relay
from cloudtask.testing import queued, run_queued
from tests.durability.database import committing
from tests.schedules import tasks
from tests.support import clock

HOUR = 3600.0
STARTS = [datetime(2027, 3, 15, 12, tzinfo=UTC), datetime(2027, 10, 15, 12, tzinfo=UTC)]
SCHEDULES = [
    Schedule("30 2 * * *", tz="Europe/Paris", key="fixed", catch_up="all"),
    Schedule("*/20 2 * * *", tz="Europe/Paris", key="both", catch_up="all"),
    Schedule("15 * * * *", tz="America/New_York", key="wild", catch_up="all"),
    Schedule(timedelta(minutes=90), key="every", catch_up="all"),
]

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def _server(tmp_path: Path) -> Iterator[None]:
    if connection.vendor == "sqlite":
        pytest.skip("two relays at once need a server of databases")
    with committing(tmp_path), clock.put_back():
        yield


def at(moment: datetime) -> None:
    clock.move((moment.timestamp()) - clock.now())


def two_relays() -> TickReport:
    """Both tick and relay at the same time, on connections of their own."""
    barrier, reports, errors = threading.Barrier(2), [], []

    def run() -> None:
        try:
            barrier.wait(30)
            reports.append(tick())
            relay()
        except Exception as error:  # noqa: BLE001  the test shows it
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return reports[0] + reports[1]


def all_schedules() -> list[Declared]:
    declare(tasks.record._self_definition, SCHEDULES)
    return list(declared().values())


def found() -> dict[str, list[datetime]]:
    """The moments for which calls were made, by the key of the schedule."""
    made: dict[str, list[datetime]] = {}
    for key, moment in tasks.occurrences:
        made.setdefault(key, []).append(moment)
    return {key: sorted(moments) for key, moments in made.items()}


@pytest.mark.parametrize("start", STARTS)
def test_each_moment_makes_one_call_for_a_month(start: datetime) -> None:
    given = all_schedules()
    at(start)
    tick()
    end, now = start + timedelta(days=31), start
    while now < end:
        now += timedelta(hours=5, minutes=17)
        at(now)
        two_relays()
    clock.move(HOUR)
    relay()
    run_queued()

    expected = {one.key: one.between(start, now) for one in given}
    assert found() == expected
    assert OutboxMessage.objects.count() == 0
    # The night of the change, in which each expression follows Debian's rule.
    night = start.replace(day=28 if start.month == 3 else 31, hour=0)
    fixed = [one for one in expected["fixed"] if one.date() == night.date()]
    assert len(fixed) == 1


@pytest.mark.parametrize(
    ("catch_up", "calls", "missed"), [("last", 1, 2), ("all", 3, 0), ("none", 0, 3)]
)
def test_two_relays_that_were_away_for_three_hours(
    give: Any, catch_up: Any, calls: int, missed: int
) -> None:
    give(Schedule(timedelta(hours=1), catch_up=catch_up))
    tick()
    clock.move(3.5 * HOUR)
    report = two_relays()
    again = two_relays()

    assert (report.enqueued, report.missed) == (calls, missed)
    assert (again.enqueued, again.missed) == (0, 0)
    assert len(queued()) == calls
    assert ScheduleRow.objects.get().missed == missed
