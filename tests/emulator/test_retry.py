from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtask.emulator.protocol import v2
from cloudtask.emulator.queues import Response, RetryPolicy, overridden
from cloudtask.emulator.queues.policy import backoff, is_exhausted
from tests.emulator.simulation import START, drive, make_queue, make_task

FAIL = Response(500)

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(-1, 200).filter(bool),
    min_backoff=st.floats(0.001, 100),
    max_backoff=st.floats(100, 10_000),
    max_doublings=st.integers(0, 2**31 - 1),
)


def test_the_example_of_the_proto_comment() -> None:
    policy = RetryPolicy(min_backoff=10, max_backoff=300, max_doublings=3)

    delays = [backoff(policy, n) for n in range(1, 9)]

    assert delays == [10, 20, 40, 80, 160, 240, 300, 300]


def test_a_queue_lives_through_the_example() -> None:
    policy = RetryPolicy(
        max_attempts=9, min_backoff=10, max_backoff=300, max_doublings=3
    )
    queue = make_queue(retry=policy)
    queue.add(make_task())

    events = drive(queue, lambda _: FAIL)

    gaps = [round(b.at - a.at, 3) for a, b in pairwise(events)]
    assert gaps == [10, 20, 40, 80, 160, 240, 300, 300]
    assert not queue.tasks


@pytest.mark.parametrize(
    ("doublings", "expected"), [(0, [1, 2, 3, 4, 5]), (1, [1, 2, 4, 6, 8])]
)
def test_few_doublings_go_over_to_the_linear_phase(
    doublings: int, expected: list[float]
) -> None:
    policy = RetryPolicy(min_backoff=1, max_backoff=100, max_doublings=doublings)

    assert [backoff(policy, n) for n in range(1, 6)] == expected


@given(policies, st.integers(1, 10_000))
def test_a_backoff_never_shrinks_nor_leaves_its_range(
    policy: RetryPolicy, failures: int
) -> None:
    delay = backoff(policy, failures)

    assert policy.min_backoff <= delay <= policy.max_backoff
    assert delay <= backoff(policy, failures + 1)


@given(st.integers(1, 50))
def test_max_attempts_counts_the_first(attempts: int) -> None:
    queue = make_queue(retry=RetryPolicy(max_attempts=attempts))
    queue.add(make_task())

    assert len(drive(queue, lambda _: FAIL)) == attempts


def test_unlimited_attempts_end_with_the_duration() -> None:
    queue = make_queue(
        retry=RetryPolicy(
            max_attempts=-1, max_retry_duration=100, min_backoff=10, max_backoff=10
        )
    )
    queue.add(make_task())

    events = drive(queue, lambda _: FAIL)

    assert [event.at - START for event in events] == list(range(0, 101, 10))


def test_with_both_limits_the_later_one_counts() -> None:
    facts = {"first_attempt": 0.0}
    policy = RetryPolicy(max_attempts=3, max_retry_duration=60)

    assert not is_exhausted(policy, attempts=3, now=59.0, **facts)
    assert not is_exhausted(policy, attempts=2, now=61.0, **facts)
    assert is_exhausted(policy, attempts=3, now=60.0, **facts)


def test_without_limits_a_task_is_never_given_up() -> None:
    policy = RetryPolicy(max_attempts=-1)

    assert not is_exhausted(policy, attempts=10**6, first_attempt=0, now=1e9)


def test_a_tasks_own_policy_goes_over_the_queues() -> None:
    queue = make_queue(retry=RetryPolicy(max_attempts=10, min_backoff=5))
    task = make_task()
    task.message.retry_config.max_attempts = 2
    queue.add(task)

    events = drive(queue, lambda _: FAIL)

    assert [event.at - START for event in events] == [0, 5]


def test_an_override_keeps_what_it_does_not_set() -> None:
    config = v2.RetryConfig(max_attempts=7)
    config.max_retry_duration.seconds = 0
    base = RetryPolicy(min_backoff=3, max_retry_duration=9)

    policy = overridden(base, config)

    assert policy == RetryPolicy(max_attempts=7, min_backoff=3, max_retry_duration=0)
