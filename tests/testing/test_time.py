"""Virtual time: calls run at the moments of production, without waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.utils import timezone
from django.utils.timezone import now as imported_now

from cloudtask import clock
from cloudtask.testing import queued, run_queued
from tests.testing import tasks
from tests.testing.tasks import seen


def gaps(report, task):
    """Seconds between the attempts of `task`."""
    times = [one.time for one in report.attempts if one.task == task.path]
    return [round(later - earlier, 3) for earlier, later in pairwise(times)]


def test_a_countdown_of_an_hour_is_over_at_once_at_its_eta():
    tasks.tick.using(countdown=3600).defer()
    (call,) = queued()
    report = run_queued(until=timedelta(hours=2))
    assert report.ran[0].at == call.eta
    assert call.eta - call.enqueued_at == timedelta(hours=1)


def test_four_backoffs_take_the_times_of_the_service():
    tasks.stumble.defer(4)
    report = run_queued(errors="retry", until=timedelta(hours=1))
    # The example of the service's own documentation: 10, 20, 40, then 80 by doubling.
    assert gaps(report, tasks.stumble) == [10, 20, 40, 80]
    assert report.ran[0].value == "done"
    assert report.remaining == []


@pytest.mark.django_db
def test_a_backoff_function_chooses_the_times():
    tasks.choose_delays.defer()
    report = run_queued(errors="retry")
    assert gaps(report, tasks.choose_delays) == [60, 120, 180]


def test_a_retry_that_was_asked_for_comes_after_its_delay():
    tasks.ask_again.defer(2, delay=1800)
    report = run_queued()
    assert gaps(report, tasks.ask_again) == [1800, 1800]
    assert (len(report.ran), len(report.retried)) == (1, 2)


def test_until_leaves_what_is_due_later():
    tasks.tick.using(countdown=60).defer("soon")
    tasks.tick.using(countdown=7200).defer("late")
    report = run_queued(until=timedelta(hours=1))
    assert [call.args for call in report.remaining] == [("late",)]
    assert [mark for mark, _, _ in seen] == ["soon"]


def test_until_may_be_seconds_or_a_moment():
    tasks.tick.using(countdown=60).defer()
    assert len(run_queued(until=59.0)) == 0
    assert len(run_queued(until=timezone.now() + timedelta(seconds=61))) == 1


def test_until_needs_a_time_zone():
    with pytest.raises(ValueError, match="aware"):
        run_queued(until=datetime(2030, 1, 1))


def test_a_retry_that_is_due_later_remains():
    tasks.stumble.defer(4)
    report = run_queued(errors="retry", until=timedelta(seconds=35))
    assert report.calls[tasks.stumble] == 3
    assert len(report.remaining) == 1
    assert run_queued(errors="retry").ran[0].attempt == 5


def test_what_a_task_enqueues_counts_from_its_own_time():
    tasks.remind.using(countdown=3600).defer(30)
    report = run_queued()
    first, second = report.attempts
    assert second.time - first.time == 1800


def test_the_clock_of_the_library_is_put_back():
    before = clock.now()
    tasks.tick.using(countdown=3600).defer()
    run_queued()
    assert clock.now() - before < 600


def test_the_clock_is_put_back_after_a_failure():
    before = clock.now()
    tasks.fail.using(countdown=3600).defer()
    with pytest.raises(tasks.Trouble):
        run_queued()
    assert clock.now() - before < 600


def test_the_context_knows_the_eta():
    tasks.see_context.using(countdown=3600).defer()
    (call,) = queued()
    run_queued()
    (context,) = seen
    assert (context.eta, context.enqueued_at) == (call.eta, call.enqueued_at)


def test_frozen_time_tells_the_virtual_time():
    tasks.tell_time.using(countdown=3600).defer()
    run_queued(freeze=True)
    told, eta = seen[0]
    assert told == eta
    assert type(told) is datetime


def test_without_freeze_time_is_real():
    tasks.tell_time.using(countdown=3600).defer()
    run_queued()
    told, eta = seen[0]
    assert eta - told > timedelta(minutes=50)


def test_frozen_time_reaches_who_imported_now_by_name(monkeypatch):
    told = []
    monkeypatch.setattr(tasks.tell_time, "__wrapped__", None, raising=False)
    tasks.see.using(countdown=3600).defer()
    (call,) = queued()
    with _watching(lambda: told.append(imported_now())):
        run_queued(freeze=True)
    assert told == [call.eta]


def test_real_time_is_back_after_a_frozen_run():
    tasks.tell_time.using(countdown=3600).defer()
    run_queued(freeze=True)
    assert abs(timezone.now() - datetime.now(UTC)) < timedelta(minutes=10)
    assert timezone.localtime(datetime.now(UTC)).tzinfo is not None


def _watching(action):
    from cloudtask import failpoints

    return failpoints.at("execute.before_call", action)
