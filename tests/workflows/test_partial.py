"""Members that fail: partial groups, and retries of what has failed."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync

from cloudtask import Failure, TaskFailed, chain, failpoints, group
from cloudtask.failpoints import crash
from cloudtask.models import WorkflowGroup, WorkflowMember
from cloudtask.stores import store
from cloudtask.testing import Faults, crash_at, run_queued
from tests.workflows import tasks
from tests.workflows.retrying import retry_failed

pytest_plugins = ["tests.stores.datastore_fixtures"]


def brief(values: list[Any]) -> list[Any]:
    """The values, with the errors of failures in their place."""
    return [one.error if isinstance(one, Failure) else one for one in values]


def totals() -> int:
    return sum(one[0] in ("total", "collect") for one in tasks.seen)


def test_a_partial_group_hands_failures_on_in_their_place(anywhere: str) -> None:
    tasks.broken.add(1)
    members = [tasks.fragile.s(n) for n in range(4)]
    receipt = group(members, partial=True).then(tasks.collect.s()).defer()
    run_queued(errors="retry")

    found = receipt.result()
    assert brief(found) == [0, "ValueError: 1 is broken", 20, 30]
    assert found[1].task == tasks.fragile.path
    assert "ValueError" in found[1].traceback
    assert totals() == 1


@pytest.mark.parametrize("count", [1, 3])
def test_all_members_may_have_failed(anywhere: str, count: int) -> None:
    tasks.broken.add("all")
    members = [tasks.fragile.s(n) for n in range(count)]
    receipt = group(members, partial=True).then(tasks.collect.s()).defer()
    run_queued(errors="retry")

    assert brief(receipt.result()) == [
        f"ValueError: {n} is broken" for n in range(count)
    ]


def test_a_partial_group_without_members_hands_on_an_empty_list(db: None) -> None:
    receipt = group([], partial=True).then(tasks.collect.s()).defer()
    run_queued()

    assert receipt.result() == []


def test_a_partial_group_keeps_its_list_and_calls_on_failure(anywhere: str) -> None:
    tasks.broken.add(2)
    whole = group(
        (tasks.fragile.s(n) for n in range(3)),
        partial=True,
        on_failure=tasks.note_failure.s(),
    )
    receipt = whole.using(keep_result=60).defer()
    run_queued(errors="retry")

    assert brief(receipt.result()) == [0, 10, "ValueError: 2 is broken"]
    [failure] = tasks.failures
    assert failure.error == "ValueError: 2 is broken"


@pytest.mark.parametrize("via", ["direct", "http"])
def test_collected_failures_are_told_to_the_group(anywhere: str, via: Any) -> None:
    tasks.broken.add(1)
    whole = group(
        (tasks.fragile.s(n) for n in range(2)),
        partial=True,
        on_failure=tasks.note_failure.s(),
    )
    receipt = whole.then(tasks.collect.s()).defer()
    report = run_queued(errors="collect", via=via)

    assert brief(receipt.result()) == [0, "ValueError: 1 is broken"]
    assert [one.error for one in tasks.failures] == ["ValueError: 1 is broken"]
    assert len(report.failed) == totals() == 1
    assert store().count_failed() == 0


def test_a_collected_failure_ends_the_group_around_it(anywhere: str) -> None:
    tasks.broken.add(1)
    receipt = group(tasks.fragile.s(0), tasks.fragile.s(1)).then(tasks.total.s())
    found = receipt.defer()
    run_queued(errors="collect")

    assert totals() == 0
    with pytest.raises(TaskFailed, match="1 is broken"):
        found.result()


@pytest.mark.parametrize("point", ["failure.after_send", "member.failed"])
def test_a_crash_while_a_collected_failure_is_told_loses_nothing(
    db: None, point: str
) -> None:
    tasks.broken.add(1)
    members = [tasks.fragile.s(0), tasks.fragile.s(1)]
    whole = group(members, partial=True, on_failure=tasks.note_failure.s())
    whole.then(tasks.collect.s()).defer()
    report = run_queued(errors="collect", faults=crash_at(point))

    assert report.struck
    assert len(tasks.failures) == totals() == 1


def test_a_collected_failure_needs_no_database() -> None:
    steps = chain(tasks.unkept_failing.s(1), on_failure=tasks.note_failure.s())
    steps.using(transactional=False).defer()
    report = run_queued(errors="collect")

    assert len(report.failed) == len(tasks.failures) == 1


def test_on_failure_of_a_group_is_called_in_front_of_then_too(anywhere: str) -> None:
    tasks.broken.add(2)
    members = [tasks.fragile.si(2), chain(tasks.give.si(1), tasks.fragile.s())]
    whole = group(members, on_failure=tasks.note_failure.s())
    chain(tasks.give.s(7), whole.then(tasks.collect.s())).defer()
    tasks.broken.add(7)
    run_queued(errors="retry")

    assert totals() == 0
    assert len(tasks.failures) == 1


def test_a_step_of_a_member_that_fails_is_the_failure_of_the_member(
    anywhere: str,
) -> None:
    tasks.broken.add(2)
    inner = chain(tasks.add.s(1), tasks.fragile.s(), tasks.add.s())
    receipt = (
        group(tasks.give.s(1), inner, partial=True).then(tasks.collect.s()).defer()
    )
    run_queued(errors="retry")

    assert brief(receipt.result()) == [1, "ValueError: 2 is broken"]


def test_a_group_inside_a_partial_group_is_one_failure(anywhere: str) -> None:
    tasks.broken.add("all")
    inner = group(tasks.fragile.s(1), tasks.fragile.s(2), tasks.give.s(3))
    receipt = (
        group(tasks.give.s(1), inner, partial=True).then(tasks.collect.s()).defer()
    )
    run_queued(errors="retry")

    first, failure = brief(receipt.result())
    assert first == 1
    assert failure.endswith("is broken")
    assert totals() == 1


def test_a_partial_group_inside_another_hides_its_failures(anywhere: str) -> None:
    tasks.broken.add(1)
    inner = group(tasks.fragile.s(1), tasks.give.s(2), partial=True)
    receipt = group(inner, tasks.give.s(3)).then(tasks.collect.s()).defer()
    run_queued(errors="retry")

    [failed, given], last = receipt.result()
    assert failed.error == "ValueError: 1 is broken"
    assert (given, last) == (2, 3)


def test_a_retry_after_then_changes_nothing(anywhere: str) -> None:
    tasks.broken.add(1)
    receipt = group(tasks.fragile.s(1), partial=True).then(tasks.collect.s()).defer()
    run_queued(errors="retry")
    retry_failed()
    run_queued()

    assert brief(receipt.result()) == ["ValueError: 1 is broken"]
    assert totals() == 1


def test_a_value_that_comes_before_the_end_takes_the_place_of_a_failure(
    anywhere: str,
) -> None:
    tasks.broken.add(1)
    late = tasks.fragile.using(countdown=600).s(2)
    members = group(tasks.fragile.s(1), late, partial=True)
    receipt = members.then(tasks.collect.s()).defer()
    run_queued(errors="retry", until=300)
    retry_failed()
    run_queued()

    assert receipt.result() == [10, 20]


@pytest.mark.parametrize("seed", range(6))
def test_faults_change_nothing_of_a_partial_group(anywhere: str, seed: int) -> None:
    tasks.broken.update({1, 4})
    members = [tasks.fragile.s(n) for n in range(6)]
    receipt = group(members, partial=True).then(tasks.collect.s()).defer()
    faults = Faults(duplicate=0.5, reorder=0.5, lose_ack=0.3, crash=0.1, seed=seed)
    run_queued(faults=faults, errors="retry")

    broken = [f"ValueError: {n} is broken" for n in (1, 4)]
    assert brief(receipt.result()) == [0, broken[0], 20, 30, broken[1], 50]


@pytest.mark.parametrize(
    "point", ["failures.after_save", "member.failed", "group.before_then"]
)
def test_a_crash_on_the_way_of_a_failure_loses_no_then(
    anywhere: str, point: str
) -> None:
    tasks.broken.add(1)
    receipt = group(tasks.fragile.s(1), partial=True).then(tasks.collect.s()).defer()
    crashed: list[int] = []

    def once() -> None:
        if not crashed:
            crashed.append(1)
            crash()

    with failpoints.at(point, once):
        run_queued(errors="retry", faults=Faults(seed=1))

    assert crashed
    assert brief(receipt.result()) == ["ValueError: 1 is broken"]
    assert totals() == 1


# Tampering


def test_a_failure_that_is_passed_off_as_a_value_is_refused(db: None) -> None:
    tasks.broken.update({1, 2})
    late = tasks.fragile.using(countdown=600).s(3)
    receipt = (
        group(tasks.fragile.s(1), tasks.fragile.s(2), late).then(tasks.collect.s())
    ).defer()
    run_queued(errors="retry", until=300)
    WorkflowMember.objects.update(has_failed=False)
    run_queued()

    assert totals() == 0
    with pytest.raises(TaskFailed, match="member 0 is refused"):
        receipt.result()


def test_a_group_that_is_made_partial_by_a_stranger_hands_nothing_on(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.broken.add(1)
    late = tasks.fragile.using(countdown=600).s(3)
    group(tasks.fragile.s(1), late).then(tasks.collect.s()).defer()
    run_queued(errors="retry", until=300)
    WorkflowGroup.objects.update(is_partial=True)
    run_queued()

    assert totals() == 0
    assert "rest of or failures of 2 members is refused" in caplog.text


# retry_failures


def test_all_failed_members_are_retried_by_the_receipt(anywhere: str) -> None:
    tasks.broken.update({1, 3})
    members = [tasks.fragile.s(n) for n in range(5)]
    receipt = group(members).then(tasks.total.s()).defer()
    run_queued(errors="retry")
    tasks.broken.clear()

    assert receipt.retry_failures() == 2
    assert receipt.retry_failures() == 0
    run_queued()
    assert receipt.result() == 100
    assert totals() == 1


def test_failed_members_of_inner_groups_are_retried_by_the_outer_receipt(
    anywhere: str,
) -> None:
    tasks.broken.add("all")
    inner = group(tasks.fragile.si(1), chain(tasks.give.si(2), tasks.fragile.s()))
    outer = chain(
        tasks.give.s(0), group(tasks.give.si(5), inner, group(inner)), tasks.collect.s()
    )
    receipt = chain(outer, tasks.collect.s()).defer()
    run_queued(errors="retry")
    tasks.broken.clear()
    assert receipt.retry_failures() == 4
    run_queued()

    assert receipt.result() == [5, [10, 20], [[10, 20]]]


def test_a_failed_step_of_a_chain_is_retried_by_its_receipt(anywhere: str) -> None:
    tasks.broken.update({1, 10})
    receipt = chain(tasks.fragile.s(1), tasks.fragile.s(), tasks.add.s()).defer()
    for _ in range(2):
        run_queued(errors="retry")
        assert receipt.retry_failures() == 1
        run_queued(errors="retry")
        assert receipt.retry_failures() == 1
        tasks.broken.discard(1 if 1 in tasks.broken else 10)
    run_queued()

    assert receipt.result() == 101


def test_a_failed_call_is_retried_by_its_receipt(anywhere: str) -> None:
    tasks.broken.add(1)
    receipt = tasks.fragile.defer(1)
    assert receipt.retry_failures() == 0
    run_queued(errors="retry")
    tasks.broken.clear()

    assert receipt.retry_failures() == 1
    run_queued()
    assert receipt.result() == 10


def test_failures_are_retried_by_asynchronous_code(anywhere: str) -> None:
    tasks.broken.add(1)
    receipt = tasks.fragile.defer(1)
    run_queued(errors="retry")

    assert async_to_sync(receipt.aretry_failures)() == 1


def test_a_failure_of_another_group_is_not_retried(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.broken.add(1)
    first = group(tasks.fragile.s(1)).then(tasks.collect.s()).defer()
    run_queued(errors="retry")
    group(tasks.fragile.s(1)).then(tasks.collect.s()).defer()
    run_queued(errors="retry")
    one, two = WorkflowMember.objects.order_by("pk")
    WorkflowMember.objects.filter(pk=one.pk).update(value=two.value)

    assert first.retry_failures() == 0
    assert "can't be retried" in caplog.text


def test_a_failed_member_that_was_discarded_is_passed_over(db: None) -> None:
    tasks.broken.add(1)
    receipt = group(tasks.fragile.s(1)).then(tasks.collect.s()).defer()
    run_queued(errors="retry")
    for key in store().find_failed("", limit=9):
        store().delete_failed(key)

    assert receipt.retry_failures() == 0
