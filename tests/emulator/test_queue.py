"""The core of a queue, with time as an argument."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtask.emulator.queues import QueueConfig, Response, RetryPolicy, Verdict
from cloudtask.emulator.queues.policy import DAY
from tests.emulator.simulation import OK, START, drive, make_queue, make_task

HOUR = 3600.0


def fill(queue, count: int) -> None:
    for number in range(count):
        queue.add(make_task(str(number)))


@pytest.mark.parametrize(
    "rate", [0.5, 10.0, pytest.param(500.0, marks=pytest.mark.exhaustive)]
)
def test_a_rate_is_kept_within_five_percent_over_an_hour(rate: float) -> None:
    burst = max(1, int(rate / 5))
    queue = make_queue(
        rate=rate,
        burst=burst,
        retry=RetryPolicy(max_attempts=-1, min_backoff=0.001, max_backoff=0.001),
    )
    fill(queue, 60)
    now, dispatched = START, 0

    while now < START + HOUR:
        while (dispatch := queue.take(now)) is not None:
            dispatched += 1
            queue.finish(dispatch, Response(500), now=now)
        now += max(queue.delay(now) or 0.0, 0.05)

    assert dispatched == pytest.approx(rate * HOUR, rel=0.05)


def test_retries_take_tokens_too() -> None:
    queue = make_queue(
        rate=1.0, burst=1, retry=RetryPolicy(min_backoff=0.01, max_backoff=0.01)
    )
    fill(queue, 10)

    events = drive(queue, lambda _: Response(500), until=START + 100)

    assert len(events) == pytest.approx(100, abs=2)


@given(rate=st.floats(0.05, 400), burst=st.integers(1, 50), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_window_sees_more_than_the_burst_and_its_share(
    rate: float, burst: int, seed: int
) -> None:
    queue = make_queue(rate=rate, burst=burst)
    dice = random.Random(seed)
    for number in range(150):
        queue.add(make_task(str(number), eta=START + dice.random() * 20))

    times = [event.at for event in drive(queue)]

    assert len(times) == 150
    for first in range(0, 150, 7):
        for last in range(first, 150, 11):
            window = times[last] - times[first]
            assert last - first + 1 <= burst + window * rate + 1.001


@given(concurrency=st.integers(1, 20), latency=st.floats(0.01, 5))
@settings(max_examples=30, deadline=None)
def test_concurrency_is_never_exceeded(concurrency: int, latency: float) -> None:
    queue = make_queue(concurrency=concurrency)
    fill(queue, 60)

    events = drive(queue, latency=latency)

    assert len(events) == 60
    assert max(event.running for event in events) <= concurrency


def test_a_slow_target_is_met_with_all_the_concurrency_allowed() -> None:
    queue = make_queue(concurrency=7)
    fill(queue, 60)

    assert max(event.running for event in drive(queue, latency=100)) == 7


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40))
@settings(deadline=None)
def test_nothing_runs_before_its_time_and_all_in_order(etas: list[float]) -> None:
    queue = make_queue()
    for number, eta in enumerate(etas):
        queue.add(make_task(str(number), eta=START + eta))

    events = drive(queue)

    assert len(events) == len(etas)
    assert all(event.at >= event.dispatch.schedule_time for event in events)
    scheduled = [event.dispatch.schedule_time for event in events]
    assert scheduled == sorted(scheduled)


def test_tasks_of_the_same_moment_keep_their_order() -> None:
    queue = make_queue()
    fill(queue, 30)

    order = [int(event.dispatch.task.id) for event in drive(queue)]

    assert order == list(range(30))


def test_reordering_loses_nothing_and_changes_the_order() -> None:
    queue = make_queue()
    fill(queue, 30)

    events = drive(queue, shuffle=random.Random(1))

    order = [int(event.dispatch.task.id) for event in events]
    assert sorted(order) == list(range(30))
    assert order != list(range(30))


def test_a_paused_queue_takes_tasks_and_dispatches_none() -> None:
    queue = make_queue()
    queue.paused = True
    fill(queue, 3)

    assert queue.take(START) is None
    assert queue.delay(START) is None
    queue.paused = False
    assert len(drive(queue)) == 3


def test_run_task_ignores_pause_rate_and_schedule() -> None:
    queue = make_queue(rate=0.01, burst=1)
    queue.paused = True
    task = make_task(eta=START + HOUR)
    queue.add(task)

    dispatch = queue.force(task, START)

    assert dispatch.number == 1
    assert queue.finish(dispatch, OK, now=START) is Verdict.DONE


def test_a_failed_run_task_is_scheduled_from_the_call() -> None:
    queue = make_queue(retry=RetryPolicy(min_backoff=30))
    task = make_task(eta=START + HOUR)
    queue.add(task)

    dispatch = queue.force(task, START + 5)
    queue.finish(dispatch, Response(500), now=START + 20)

    assert task.eta == START + 35


def test_a_task_deleted_while_it_runs_is_not_tried_again() -> None:
    queue = make_queue()
    queue.add(make_task())
    dispatch = queue.take(START)
    queue.remove("t", now=START)

    assert dispatch is not None
    verdict = queue.finish(dispatch, Response(500), now=START + 1)
    assert verdict is Verdict.GONE
    assert queue.next_eta() is None
    assert queue.running == 0


def test_a_new_task_of_a_purged_name_is_not_hit_by_the_old_response() -> None:
    queue = make_queue()
    queue.add(make_task())
    dispatch = queue.take(START)
    queue.purge(now=START)
    queue.add(make_task())

    assert dispatch is not None
    assert queue.finish(dispatch, OK, now=START + 1) is Verdict.GONE
    assert "t" in queue.tasks


def test_names_stay_taken_as_long_as_the_tombstone() -> None:
    queue = make_queue(tombstone=60)
    queue.add(make_task())
    queue.remove("t", now=START)

    assert queue.is_name_taken("t", START + 59)
    assert not queue.is_name_taken("t", START + 61)


def test_expired_names_do_not_pile_up() -> None:
    queue = make_queue(tombstone=10)
    for number in range(1000):
        queue.add(make_task(str(number)))
        queue.remove(str(number), now=START + number)

    assert len(queue.tombstones) < 20


def test_tasks_older_than_the_retention_are_dropped() -> None:
    queue = make_queue(retention=31 * DAY)
    queue.add(make_task(eta=START + 40 * DAY))

    assert queue.drop_expired(START + 31 * DAY - 1) == []
    assert [task.id for task in queue.drop_expired(START + 31 * DAY)] == ["t"]


def test_a_new_rate_counts_at_once_and_brings_no_new_burst() -> None:
    queue = make_queue(rate=1.0, burst=1)
    fill(queue, 400)
    drive(queue, until=START + 10)

    queue.configure(QueueConfig(rate=100.0, burst=100), now=START + 10)
    assert queue.delay(START + 10.005) == pytest.approx(0.005, abs=0.002)


def test_a_clock_set_back_does_not_stop_a_queue() -> None:
    queue = make_queue(rate=1.0, burst=1)
    fill(queue, 2)
    assert queue.take(START) is not None

    assert queue.delay(START - HOUR) == pytest.approx(HOUR)
    queue.tasks["1"].eta = START
    queue.add(make_task("2", eta=START - HOUR))
    assert queue.delay(START - HOUR + 1) == 0.0


def test_503_slows_the_queue_down_and_quiet_brings_it_back() -> None:
    queue = make_queue(rate=10.0)
    queue.add(make_task())
    dispatch = queue.take(START)
    assert dispatch is not None

    queue.finish(dispatch, Response(503), now=START)

    assert queue.throttle_factor(START) == 0.5
    assert queue.throttle_factor(START + 10) == 1.0


def test_retry_after_holds_the_whole_queue() -> None:
    queue = make_queue()
    fill(queue, 2)
    dispatch = queue.take(START)
    assert dispatch is not None

    queue.finish(dispatch, Response(429, retry_after=30), now=START)

    assert queue.delay(START) == pytest.approx(30)
    assert queue.throttle_factor(START) == 0.0
    assert queue.tasks["0"].eta == START + 30


@pytest.mark.parametrize(("status", "factor"), [(429, 1.0), (503, 0.5), (500, 1.0)])
def test_on_app_engine_only_503_throttles(status: int, factor: float) -> None:
    queue = make_queue()
    queue.add(make_task(app_engine=True))
    dispatch = queue.take(START)
    assert dispatch is not None

    queue.finish(dispatch, Response(status, retry_after=9), now=START)

    assert queue.throttle_factor(START) == factor
    assert queue.tasks["t"].eta < START + 9


def test_many_overloads_in_one_moment_count_once() -> None:
    queue = make_queue()
    fill(queue, 50)
    dispatches = [queue.take(START) for _ in range(50)]

    for dispatch in dispatches:
        assert dispatch is not None
        queue.finish(dispatch, Response(503), now=START)

    assert queue.throttle_factor(START) == 0.5
