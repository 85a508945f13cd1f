"""The tick: each moment makes one call, whoever ticks, and whenever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections
from django.test import Client

from cloudtask import Schedule, failpoints, signals
from cloudtask.failpoints import Crashed, crash
from cloudtask.models import OutboxMessage, ScheduleRow
from cloudtask.schedules import declared
from cloudtask.schedules.declared import _declared
from cloudtask.schedules.ticking import TickFailed, tick
from cloudtask.sending.relay import relay
from cloudtask.stores import store
from cloudtask.testing import queued, run_queued
from tests.durability.database import committing
from tests.schedules import tasks
from tests.support import clock

HOURLY = timedelta(hours=1)
HOUR, DAY = 3600.0, 86400.0


def test_the_first_tick_makes_no_call_for_the_past(db: None, give: Any) -> None:
    give("* * * * *")

    assert tick().enqueued == 0
    assert queued() == []


def test_a_moment_that_has_passed_makes_one_call(db: None, give: Any) -> None:
    give(HOURLY)
    tick()
    with clock.ahead(HOUR):
        assert tick().enqueued == 1
        assert tick().enqueued == 0
        run_queued()

    [(at, word)] = tasks.seen
    assert word == "due"
    assert at.tzinfo is UTC
    assert (at.minute, at.second) == (0, 0)


def test_arguments_travel(db: None, give: Any) -> None:
    give(Schedule(HOURLY, args=("late",)))
    tick()
    with clock.ahead(HOUR):
        tick()
        run_queued()

    assert [word for _, word in tasks.seen] == ["late"]


@pytest.mark.parametrize(
    ("catch_up", "calls", "missed"), [("last", 1, 2), ("all", 3, 0), ("none", 0, 3)]
)
def test_a_relay_that_was_away_for_three_hours_catches_up_as_it_is_said(
    db: None, give: Any, catch_up: Any, calls: int, missed: int
) -> None:
    give(Schedule(HOURLY, catch_up=catch_up))
    tick()
    # At 40 past, so that the last moment is not one of the last 90 seconds.
    with clock.ahead(3.5 * HOUR):
        report = tick()
        assert tick().enqueued == 0
        run_queued()

    assert (report.enqueued, report.missed) == (calls, missed)
    assert len(tasks.seen) == calls
    assert ScheduleRow.objects.get().missed == missed
    found = tasks.moments()
    assert found == sorted(set(found))


def test_none_makes_the_call_of_the_last_moment(db: None, give: Any) -> None:
    give(Schedule("* * * * *", catch_up="none"))
    tick()
    with clock.ahead(HOUR):
        report = tick()

    assert report.enqueued == 1
    assert report.missed >= 58


def test_what_is_older_than_the_window_is_left(db: None, give: Any) -> None:
    give(Schedule(HOURLY, catch_up="all", window=2.5 * HOUR))
    tick()
    with clock.ahead(5 * DAY):
        report = tick()
        assert report.enqueued in (2, 3)
        assert report.enqueued + report.missed == 5 * 24
    assert ScheduleRow.objects.get().missed == report.missed


@pytest.mark.parametrize("every", ["* * * * *", timedelta(minutes=1)])
def test_moments_beyond_the_most_that_are_made_up_for_are_counted_and_told(
    db: None, give: Any, every: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, int]] = []

    def note(schedule: str, count: int, **others: Any) -> None:
        told.append((schedule, count))

    one = give(Schedule(every, catch_up="all", window=2 * DAY))
    tick()
    signals.schedule_missed.connect(note)
    try:
        with clock.ahead(2 * DAY - HOUR):
            first, second = tick(), tick()
    finally:
        signals.schedule_missed.disconnect(note)

    all_of_them = 47 * 60
    assert (first.enqueued, second.enqueued) == (20, 20)
    assert first.missed == all_of_them - 1000
    assert second.missed == 0
    assert told == [(one.key, first.missed)]
    assert f"{one.key} has missed {first.missed} moments" in caplog.text


def test_a_pause_that_is_too_long_to_count_is_told_as_such(
    db: None, give: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give("* * * * *")
    tick()
    with clock.ahead(20 * DAY):
        assert tick().enqueued == 1
    assert "has missed at least 1" in caplog.text


def test_a_pause_in_which_no_moment_is_in_the_window_is_counted_once(
    db: None, give: Any
) -> None:
    give(Schedule(HOURLY, window=60))
    tick()
    with clock.ahead(3 * HOUR):
        assert (tick().enqueued, ScheduleRow.objects.get().missed) == (0, 3)
        assert (tick().missed, ScheduleRow.objects.get().missed) == (0, 3)


def test_a_tick_makes_at_most_twenty_calls_and_the_next_one_the_rest(
    db: None, give: Any
) -> None:
    give(Schedule(HOURLY, catch_up="all", window=2 * DAY))
    tick()
    with clock.ahead(25 * HOUR):
        assert tick().enqueued == 20
        assert tick().enqueued == 5
        run_queued()

    found = tasks.moments()
    assert len(found) == 25
    assert found == sorted(set(found))


def test_spread_is_the_same_for_each_call(db: None, give: Any) -> None:
    one = give(Schedule(HOURLY, spread=1800))
    tick()
    with clock.ahead(HOUR):
        tick()
        [waiting] = queued()

    assert timedelta(0) < one.delay < timedelta(minutes=30)
    assert waiting.eta is None or waiting.eta.minute < 30


# Several at once, and crashes


@pytest.fixture
def committed(db: None, tmp_path: Path) -> Iterator[None]:
    with committing(tmp_path):
        yield


@pytest.mark.django_db(databases="__all__")
def test_eight_ticks_at_once_make_one_call(committed: None, give: Any) -> None:
    give(Schedule(HOURLY, catch_up="all"))
    tick()
    barrier, made, errors = threading.Barrier(8), [], []

    def ticks() -> None:
        try:
            barrier.wait(20)
            made.append(tick().enqueued)
        except TickFailed as error:
            errors.append(error)  # SQLite has one writer; the next tick does it
        finally:
            connections.close_all()

    with clock.ahead(3 * HOUR):
        threads = [threading.Thread(target=ticks) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tick()
        run_queued()

    found = tasks.moments()
    assert len(found) == len(set(found)) == 3
    assert sum(made) <= 3


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("point", ["tick.moved", "outbox.added", "tick.committed"])
def test_a_crash_loses_no_call_and_makes_none_twice(
    committed: None, give: Any, point: str
) -> None:
    give(HOURLY)
    tick()
    with clock.ahead(HOUR):
        with failpoints.at(point, crash), pytest.raises(Crashed):
            tick()
        with clock.ahead(60):
            tick()
            relay()
            run_queued()

    assert len(tasks.seen) == 1
    assert OutboxMessage.objects.count() == 0


# Changes of the code


def test_a_changed_schedule_does_not_make_up_for_the_past(db: None, give: Any) -> None:
    give("0 0 1 1 *")
    tick()
    with clock.ahead(10 * DAY):
        give("* * * * *")
        assert tick().enqueued <= 1  # that of the last 90 seconds
        assert ScheduleRow.objects.get().schedule.startswith("* * * * *")


def test_two_versions_that_tick_in_turn_repeat_nothing(db: None, give: Any) -> None:
    for turn in range(6):
        give(HOURLY if turn % 2 else timedelta(hours=1, minutes=30))
        with clock.ahead(turn * 600.0):
            tick()
            run_queued()

    found = tasks.moments()
    assert len(found) == len(set(found))


def test_a_schedule_that_no_code_declares_is_not_due(db: None, give: Any) -> None:
    give(HOURLY)
    tick()
    _declared.clear()
    with clock.ahead(DAY):
        assert tick().enqueued == 0
    with clock.ahead(40 * DAY):
        assert store().prune_schedules(timedelta(days=30), 10) == 1


def test_a_key_survives_another_path(db: None, give: Any) -> None:
    give(Schedule(HOURLY, key="hourly"))
    tick()
    _declared.clear()
    give(Schedule(HOURLY, key="hourly"), tasks.other)
    with clock.ahead(HOUR):
        assert tick().enqueued == 1
        run_queued()
    assert [word for _, word in tasks.seen] == ["other"]


def test_a_clock_that_is_set_back_repeats_nothing(db: None, give: Any) -> None:
    give(HOURLY)
    with clock.ahead(2 * HOUR):
        tick()
    assert tick().enqueued == 0
    with clock.ahead(HOUR):
        assert tick().enqueued == 0
    with clock.ahead(3 * HOUR):
        assert tick().enqueued == 1


def test_a_pause_of_the_relay_is_an_error_in_the_log_once(
    db: None, give: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give(HOURLY)
    give(HOURLY, tasks.other)
    tick()
    with clock.ahead(9 * 60.0):
        tick()
    assert "No relay has looked" not in caplog.text

    with clock.ahead(9 * 60.0 + 11 * 60.0):
        tick()
        tick()
    [record] = [r for r in caplog.records if r.levelname == "ERROR"]
    assert "in the database 'default' for 11 minutes" in record.getMessage()


def test_the_error_of_one_schedule_keeps_no_other_back(
    db: None, give: Any, settings: Any
) -> None:
    give(HOURLY)
    give(HOURLY, tasks.other)
    tick()
    settings.CLOUDTASK = {"QUEUES": {"mail": {}}}  # nothing goes to "default" now
    with clock.ahead(HOUR):
        with pytest.raises(TickFailed, match=r"other.*QueueNotFound"):
            tick()
        settings.CLOUDTASK = {}
        assert tick().enqueued == 2  # the moments are still due


@pytest.mark.django_db(databases="__all__")
def test_a_schedule_uses_the_database_of_its_task(give: Any) -> None:
    give(HOURLY, tasks.elsewhere)
    tick()
    with clock.ahead(HOUR):
        assert tick().enqueued == 1
    assert ScheduleRow.objects.using("other").count() == 1
    assert ScheduleRow.objects.count() == 0


# Control


def test_a_disabled_schedule_is_not_due_and_enabling_makes_up_for_nothing(
    db: None, give: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    give(Schedule(HOURLY, catch_up="all", key="hourly"))
    tick()
    call_command("cloudtask_schedules", "disable", "hourly")
    with clock.ahead(5 * HOUR):
        assert tick().enqueued == 0
        call_command("cloudtask_schedules", "list")
        call_command("cloudtask_schedules", "enable", "hourly")
        assert tick().enqueued == 0
    with clock.ahead(6 * HOUR):
        assert tick().enqueued == 1
    assert "hourly  every 1:00:00  no" in capsys.readouterr().out


def test_a_schedule_may_begin_disabled(db: None, give: Any) -> None:
    give(Schedule(HOURLY, enabled=False))
    tick()
    with clock.ahead(5 * HOUR):
        assert tick().enqueued == 0


def test_a_run_now_leaves_the_times_as_they_are(
    db: None, give: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    give(Schedule("0 3 * * *", key="nightly", args=("now",)))
    tick()
    before = ScheduleRow.objects.get().last_at
    call_command("cloudtask_schedules", "run", "nightly")
    call_command("cloudtask_schedules", "run", "nightly")
    run_queued()

    assert [word for _, word in tasks.seen] == ["now", "now"]
    assert ScheduleRow.objects.get().last_at == before


def test_an_unknown_key_is_told_the_nearest(db: None, give: Any) -> None:
    give(Schedule(HOURLY, key="hourly"))
    with pytest.raises(CommandError, match="hourly"):
        call_command("cloudtask_schedules", "enable", "horly")


# Where it ticks


@pytest.mark.django_db(databases="__all__")
def test_the_relay_ticks_by_url_and_by_command(
    give: Any, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.CLOUDTASK = {"RELAY_TOKEN": "s3cret"}
    give(HOURLY)
    tick()
    with clock.ahead(HOUR):
        answer = Client().get(
            "/_cloudtask/relay/", headers={"Authorization": "Bearer s3cret"}
        )
        assert answer.status_code == 200
        assert b"1 calls of schedules enqueued" in answer.content
    with clock.ahead(2 * HOUR):
        call_command("cloudtask_relay")
        assert "1 calls of schedules enqueued" in capsys.readouterr().out
        run_queued()
    assert len(tasks.seen) == 2


# Virtual time


def test_run_queued_runs_schedules_until_its_end_without_a_database_of_ticks(
    db: None, give: Any
) -> None:
    give(timedelta(hours=6))
    give(Schedule("0 0 * * *", tz="UTC"), tasks.other)
    run_queued(until=timedelta(days=1))

    assert len(tasks.seen) == 5
    assert tasks.moments() == sorted(tasks.moments())
    assert ScheduleRow.objects.count() == 0


def test_without_until_no_schedule_runs(db: None, give: Any) -> None:
    give("* * * * *")
    run_queued()
    run_queued(until=DAY, schedules=False)

    assert tasks.seen == []


def test_a_span_that_is_run_twice_makes_no_call_twice(db: None, give: Any) -> None:
    give(HOURLY)
    end = datetime.fromtimestamp(clock.now(), UTC) + timedelta(hours=5)
    run_queued(until=end)
    run_queued(until=end)

    assert len(tasks.seen) == 5


def test_a_night_in_which_the_clock_is_put_back_runs_once(db: None, give: Any) -> None:
    give(Schedule("30 2 * * *", tz="Europe/Paris"))
    with time_machine.travel(datetime(2026, 10, 24, 20, tzinfo=UTC), tick=False):
        run_queued(until=datetime(2026, 10, 26, 20, tzinfo=UTC))

    assert tasks.moments() == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    ]


def test_two_relays_tick_for_a_month_over_both_changes_of_the_clock(
    db: None, give: Any
) -> None:
    """Two relays in turn, each every eleven hours, for a virtual month."""
    one = give(Schedule("30 2 * * *", tz="Europe/Paris", catch_up="all"))
    for start in (
        datetime(2027, 3, 15, 12, tzinfo=UTC),
        datetime(2027, 10, 15, 12, tzinfo=UTC),
    ):
        tasks.seen.clear()
        ScheduleRow.objects.all().delete()
        end, now = start + timedelta(days=31), start
        while now < end:
            with clock.ahead((now - datetime.now(UTC)).total_seconds()):
                tick()
                tick()
            now += timedelta(hours=11)
        with clock.ahead((end - datetime.now(UTC)).total_seconds()):
            tick()
            run_queued()
            expected = one.between(start + timedelta(minutes=5), end)

        assert tasks.moments() == expected
    assert [*declared()] == [one.key]
