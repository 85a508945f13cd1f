"""The simulator of the scale page, beside the core of the emulator."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.simulator.__main__ import PAGE, with_tables
from benchmarks.simulator.dispatch import Limits, drain, ramp_seconds
from cloudtask.emulator.queues import Dispatch, Response, RetryPolicy
from tests.emulator.simulation import START, drive, make_queue, make_task

TOLERANCE = 0.01  # of the virtual seconds until all is done
ROUND = 0.02  # of all attempts: those that may fall into the next second

CASES = {
    "rate": (2_000, Limits(rate=50.0, burst=10), 0.2, 0),
    "concurrency": (500, Limits(rate=500.0, concurrency=7), 0.3, 0),
    "retries": (300, Limits(rate=40.0, burst=5, min_backoff=1.0, doublings=3), 0.1, 5),
    "steps": (20, Limits(min_backoff=2.0, max_backoff=30.0, doublings=2), 0.1, 9),
}


@pytest.mark.parametrize("case", CASES)
def test_the_simulator_sends_as_the_emulator_does(case: str) -> None:
    tasks, limits, latency, failures = CASES[case]
    queue = make_queue(
        rate=limits.rate,
        burst=limits.burst,
        concurrency=limits.concurrency,
        retry=RetryPolicy(
            max_attempts=-1,
            min_backoff=limits.min_backoff,
            max_backoff=limits.max_backoff,
            max_doublings=limits.doublings,
        ),
    )
    for number in range(tasks):
        queue.add(make_task(f"t{number}"))

    def answer(dispatch: Dispatch) -> Response:
        number = int(dispatch.task.id[1:])
        fails = number % 3 == 0 and dispatch.number <= failures
        return Response(500 if fails else 200)

    events = drive(queue, answer, latency=latency)
    found = drain(
        tasks,
        limits,
        seconds_of=lambda task, attempt: latency,
        fails=lambda task, attempt: task % 3 == 0 and attempt <= failures,
    )

    assert found.attempts == len(events)
    measured = events[-1].at - START + latency
    assert found.seconds == pytest.approx(measured, rel=TOLERANCE)
    assert found.most_at_once == max(event.running for event in events)
    by_second = Counter(int(event.at - START) for event in events)
    allowed = max(2.0, ROUND * len(events))
    assert _most_apart(found.by_second, by_second) <= allowed


def _most_apart(one: Counter[int], other: Counter[int]) -> int:
    """The largest difference of what was sent up to any second."""
    apart = most = 0
    for second in range(max(*one, *other) + 1):
        apart += one[second] - other[second]
        most = max(most, abs(apart))
    return most


def test_a_straggler_holds_one_place_and_no_other_task() -> None:
    limits = Limits(rate=100.0, burst=1, concurrency=10)

    found = drain(
        1_000, limits, seconds_of=lambda task, attempt: 600.0 if task == 0 else 0.01
    )

    assert found.seconds == pytest.approx(600.0, rel=TOLERANCE)
    assert sum(n for second, n in found.by_second.items() if second < 11) == 1_000


def test_the_ramp_up_takes_half_an_hour_to_4_000_a_second() -> None:
    # 500, 750, 1,125, 1,688, 2,531 and 3,797 a second, each for 300 seconds.
    sent = 300 * 500 * sum(1.5**step for step in range(6))

    assert ramp_seconds(sent, 4_000) == pytest.approx(1_800)
    assert ramp_seconds(sent + 4_000, 4_000) == pytest.approx(1_801)
    assert ramp_seconds(1_000, 100) == pytest.approx(10)


def test_the_page_has_the_tables_of_the_simulator() -> None:
    page = PAGE.read_text()

    assert page == with_tables(page), "python -m benchmarks.simulator --write"
