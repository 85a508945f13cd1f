"""Calls of a schedule with overlap="skip": one does not begin while another runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from cloudtask import Retry, Schedule
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import ConfigurationError, SingularTaskFailure
from cloudtask.models import OutboxMessage, ScheduleRow
from cloudtask.schedules.ticking import run_now, tick
from cloudtask.testing import Faults, Report, run_queued
from tests.schedules import tasks
from tests.support import clock

HOURLY = timedelta(hours=1)
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _plain(db: None) -> Iterator[None]:
    with clock.put_back():
        yield
    tasks.during.clear()


def due(give: Callable[..., Any], **options: Any) -> Any:
    """A schedule whose first call waits in the queue."""
    one = give(Schedule(HOURLY, **{"overlap": "skip"} | options), tasks.slow)
    tick()
    clock.move(HOUR)
    assert tick().enqueued == 1
    return one


def outcomes(report: Report) -> list[str]:
    return [one.outcome.value for one in report.attempts]


def row() -> ScheduleRow:
    return ScheduleRow.objects.get()


@pytest.mark.parametrize(
    ("overlap", "runs", "skipped"), [("skip", 1, 1), ("allow", 2, 0)]
)
def test_a_call_that_is_due_while_another_runs(
    give: Any, overlap: str, runs: int, skipped: int
) -> None:
    one = due(give, overlap=overlap)
    inner: list[str] = []

    def meanwhile() -> None:
        tasks.during.clear()
        run_now(one)
        inner.extend(outcomes(run_queued()))

    tasks.during.append(meanwhile)
    assert outcomes(run_queued()) == ["succeeded"]

    assert len(tasks.seen) == runs
    assert inner == ["succeeded" if overlap == "allow" else "skipped"]
    assert row().skipped == skipped
    assert OutboxMessage.objects.count() == 0


def test_the_next_call_begins_once_the_one_before_has_ended(give: Any) -> None:
    one = due(give)
    run_queued()
    run_now(one)

    assert outcomes(run_queued()) == ["succeeded"]
    assert row().skipped == 0


def test_a_call_that_failed_for_good_lets_the_next_one_begin(give: Any) -> None:
    one = due(give)
    tasks.during.append(fails)
    run_queued(errors="retry")
    run_now(one)

    assert outcomes(run_queued(errors="retry"))[-1] == "exhausted"
    assert row().skipped == 0


def fails() -> None:
    raise ValueError("no")


def test_a_call_that_asks_for_another_attempt_keeps_the_next_one_from_beginning(
    give: Any,
) -> None:
    one = due(give)
    tasks.during.append(later)
    run_queued(until=60)
    with clock.ahead(1800.0):
        run_now(one)
        assert outcomes(run_queued(until=60)) == ["skipped"]
    tasks.during.clear()
    with clock.ahead(2.5 * HOUR):
        assert outcomes(run_queued()) == ["succeeded"]
        run_now(one)
        assert outcomes(run_queued()) == ["succeeded"]


def later() -> None:
    raise Retry(2 * HOUR)


def test_a_call_that_cloud_tasks_tries_again_keeps_the_next_one_from_beginning(
    give: Any,
) -> None:
    one = due(give)
    tasks.during.append(busy)
    report = run_queued(errors="retry", until=1)
    run_now(one)
    again = run_queued(errors="retry", until=1)

    assert report.attempts[0].outcome is Outcome.POSTPONED
    assert "skipped" in outcomes(again)
    tasks.during.clear()
    assert "succeeded" in outcomes(run_queued(errors="retry"))


def busy() -> None:
    raise SingularTaskFailure


def test_a_process_that_is_killed_holds_its_schedule_for_as_long_as_it_may_run(
    give: Any, settings: Any
) -> None:
    one = due(give)
    kept = row()
    ScheduleRow.objects.update(running="killed", running_until=kept.seen_at)
    with clock.ahead(HOUR):
        run_now(one)
        assert set(outcomes(run_queued())) == {"succeeded"}


@pytest.mark.parametrize("seed", range(5))
def test_faults_lose_no_call_of_a_schedule(give: Any, seed: int) -> None:
    due(give)
    run_queued(faults=Faults(duplicate=0.5, crash=0.3, lose_ack=0.3, seed=seed))

    assert tasks.seen
    assert row().running == ""


def test_virtual_time_needs_no_tick(give: Any) -> None:
    give(Schedule(HOURLY, overlap="skip"), tasks.slow)
    run_queued(until=3.5 * HOUR)

    assert len(tasks.seen) == 3


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="overlap is 'allow' or 'skip'"):
        Schedule(HOURLY, overlap="queue")  # type: ignore[arg-type]
