"""A cancelled chain or group begins no further step, wherever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction

import cloudtask
from cloudtask import Cancellation, Receipt, TaskFailed, chain, failpoints, group
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import CallMark, Execution, OutboxMessage
from cloudtask.stores import store
from cloudtask.testing import crash_at, queued, run_queued
from cloudtask.transports import memory
from tests.durability.database import committing, rolled_back
from tests.support import clock
from tests.testapp.models import Author
from tests.workflows import tasks
from tests.workflows.retrying import retry_failed

pytest_plugins = ["tests.stores.datastore_fixtures"]

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PREVENTED, TOO_LATE, REQUESTED = Cancellation


@pytest.fixture
def commits(db: None, tmp_path: Path) -> Iterator[None]:
    with committing(tmp_path):
        yield


def of_chain() -> Any:
    steps = chain(tasks.give.s(1), tasks.add.s(), tasks.collect.s())
    return steps.using(cancellable=True)


def of_group() -> Any:
    members = (chain(tasks.give.s(n), tasks.add.s()) for n in range(3))
    return group(members).then(tasks.total.s())


def of_both() -> Any:
    inner = group(tasks.add.s(1), group(tasks.add.s(2), tasks.add_atomically.s(3)))
    return chain(tasks.give.s(1), inner, tasks.collect.s()).using(cancellable=True)


def of_atomic_steps() -> Any:
    steps = chain(tasks.add_atomically.s(1), tasks.add_atomically.s(2))
    return steps.using(cancellable=True)


TREES = [of_chain, of_group, of_both, of_atomic_steps]


@pytest.mark.parametrize("tree", TREES)
def test_nothing_of_a_tree_begins_that_is_cancelled_before(
    anywhere: str, tree: Callable[[], Any]
) -> None:
    receipt = tree().defer()

    assert receipt.cancel() is PREVENTED
    assert receipt.cancel() is PREVENTED
    outcomes = {one.outcome for one in run_queued().attempts}
    assert outcomes <= {Outcome.CANCELLED}
    assert tasks.seen == []
    assert not Author.objects.exists()
    with pytest.raises(TaskFailed, match="was cancelled"):
        receipt.result(timeout=0)


def test_no_step_begins_after_the_first_one(anywhere: str) -> None:
    receipt = chain(tasks.give.s(1), tasks.add.s(), tasks.collect.s()).defer()
    run_queued(recursive=False)

    assert receipt.cancel() is REQUESTED
    [ran] = run_queued().attempts
    assert ran.outcome is Outcome.CANCELLED
    assert tasks.seen == [("give", 1)]
    with pytest.raises(TaskFailed, match=r"chain or group .* was cancelled"):
        receipt.result(timeout=0)


def test_a_chain_without_the_option_promises_no_more_than_that(db: None) -> None:
    receipt = chain(tasks.give.s(1), tasks.add.s()).using(countdown=60).defer()

    assert receipt.cancel() is REQUESTED
    assert run_queued().attempts == []  # its first task was deleted in time


def test_members_that_have_not_begun_do_not_and_then_never_runs(anywhere: str) -> None:
    receipt = group(tasks.give.s(n) for n in range(5)).then(tasks.total.s()).defer()
    begun: list[Cancellation] = []

    def at_the_third() -> None:
        if len(tasks.seen) == 2 and not begun:
            begun.append(receipt.cancel())

    with failpoints.at("execute.received", at_the_third):
        outcomes = [one.outcome for one in run_queued().attempts]

    assert begun == [REQUESTED]
    assert outcomes == [Outcome.SUCCEEDED] * 2 + [Outcome.CANCELLED] * 3
    assert len(tasks.seen) == 2


POINTS = [
    "execute.received",
    "execute.before_call",
    "execute.after_call",
    "execute.before_commit",
    "execute.before_settle",
    "chain.before_next",
    "chain.after_next",
    "member.saved",
    "group.before_then",
    "group.after_then",
    "execute.settled",
]


class CancelAt:
    """Cancels a tree when a point is reached for the n-th time."""

    def __init__(self, receipt: Receipt[Any], turn: int) -> None:
        self.receipt = receipt
        self.turn = turn
        self.answer: Cancellation | None = None
        self.begun = 0

    def __call__(self) -> None:
        self.turn -= 1
        if self.turn == 0:
            self.answer = self.receipt.cancel()
            self.begun = _begun()


def _begun() -> int:
    """Calls that have begun; those of atomic steps leave a row each."""
    return len(tasks.seen) + Author.objects.count()


@pytest.mark.exhaustive(sample=4)
@pytest.mark.parametrize("turn", [1, 2, 4])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("tree", TREES)
def test_after_a_cancel_at_any_point_no_step_begins(
    anywhere: str, tree: Callable[[], Any], point: str, turn: int
) -> None:
    receipt = tree().defer()
    cancelling = CancelAt(receipt, turn)
    with failpoints.at(point, cancelling):
        run_queued()

    if cancelling.answer is None:
        assert receipt.result() is not None  # it does not come there so often
        return
    # The step that is between its look and its call has begun already.
    at_once = 1 if point == "execute.before_call" else 0
    assert _begun() <= cancelling.begun + at_once
    if cancelling.answer is PREVENTED:
        assert _begun() == 0


@pytest.mark.parametrize("point", ["cancel.before_commit", "cancel.committed"])
@pytest.mark.parametrize("tree", [of_chain, of_group])
def test_a_crash_of_the_cancel_leaves_the_tree_or_the_mark(
    commits: None, tree: Callable[[], Any], point: str
) -> None:
    receipt = tree().defer()
    with crash_at(point), pytest.raises(failpoints.Crashed):
        receipt.cancel()

    run_queued()
    assert (tasks.seen == []) is (point == "cancel.committed")


@pytest.mark.parametrize("point", ["chain.after_next", "execute.settled"])
def test_a_step_that_is_delivered_again_after_a_crash_finds_the_mark(
    anywhere: str, point: str
) -> None:
    receipt = chain(tasks.give.s(1), tasks.add.s()).defer()
    waiting = memory.queue().take({queued()[0].id})
    memory.queue().put_back(waiting)
    run_queued(recursive=False, faults=crash_at(point), errors="retry")

    receipt.cancel()
    run_queued(errors="retry")
    assert ("add", 1, 1) not in tasks.seen


@pytest.mark.parametrize("tree", TREES)
def test_a_tree_of_the_open_transaction_never_leaves_it(
    commits: None, tree: Callable[[], Any]
) -> None:
    with transaction.atomic():
        receipt = tree().defer()
        assert receipt.cancel() is PREVENTED

    assert len(memory.queue()) == 0
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize("tree", TREES)
def test_a_cancel_that_is_rolled_back_was_never_there(
    commits: None, tree: Callable[[], Any]
) -> None:
    receipt = tree().defer()
    with rolled_back():
        assert receipt.cancel() is PREVENTED

    run_queued()
    assert receipt.result() is not None


def test_a_tree_that_has_ended_is_too_late(anywhere: str) -> None:
    receipts = [tree().defer() for tree in (of_chain, of_group, of_atomic_steps)]
    run_queued()

    assert [receipt.cancel() for receipt in receipts] == [TOO_LATE] * 3
    assert [receipt.result() for receipt in receipts] == [2, 6, 4]


def test_the_record_of_an_atomic_last_step_decides(db: None) -> None:
    """A cancel between its look and its transaction undoes it."""
    receipt = chain(tasks.give.s(1), tasks.add_atomically.s()).defer()
    cancelling = CancelAt(receipt, 2)
    with failpoints.at("execute.before_call", cancelling):
        run_queued()

    assert cancelling.answer is REQUESTED
    assert not Author.objects.exists()


def test_a_failed_step_of_a_cancelled_chain_is_not_run_by_a_retry(db: None) -> None:
    tasks.broken.add("all")
    receipt = chain(tasks.fragile.s(1), tasks.collect.s()).defer()
    run_queued(errors="retry")

    assert receipt.cancel() is REQUESTED
    retry_failed()
    [ran] = run_queued().attempts
    assert ran.outcome is Outcome.CANCELLED
    assert tasks.seen == []


def test_a_step_that_runs_sees_the_cancel_and_is_not_tried_again(anywhere: str) -> None:
    receipt = chain(tasks.watching.s(), tasks.collect.s()).defer()
    tasks.broken.add("watching")
    with failpoints.at("execute.before_call", CancelAt(receipt, 1)):
        [ran] = run_queued(errors="retry").attempts

    assert ran.outcome is Outcome.CANCELLED
    assert tasks.seen == [("watching", True)]


# One step by its own id


def test_a_cancelled_member_fails_its_group_and_keeps_the_others(anywhere: str) -> None:
    members = [tasks.stoppable.s(n) for n in range(3)]
    receipt = (
        chain(group(members, on_failure=tasks.note_failure.s()), tasks.collect.s())
    ).defer()
    one = queued()[1]

    assert cloudtask.cancel(one.id) is PREVENTED
    run_queued()

    assert sorted(tasks.seen) == [("stoppable", 0), ("stoppable", 2)]
    assert tasks.failures == []
    with pytest.raises(TaskFailed, match=f"stoppable \\({one.id}\\) was cancelled"):
        receipt.result(timeout=0)


# What it costs


def test_each_step_of_a_plain_chain_makes_one_query(
    db: None, django_assert_num_queries: Any
) -> None:
    chain(tasks.unkept.s(1), tasks.unkept.s(), tasks.unkept.s()).using(
        transactional=False
    ).defer()

    with django_assert_num_queries(3):
        run_queued()
    assert not CallMark.objects.exists()


def test_members_write_one_mark_together(db: None) -> None:
    group(tasks.unkept.s(n) for n in range(4)).then(tasks.unkept.s()).defer()
    run_queued()

    assert CallMark.objects.count() == 1


# Marks are kept


def test_a_mark_is_kept_for_as_long_as_a_failed_step_may_be_retried(
    db: None, settings: Any
) -> None:
    settings.CLOUDTASK = {**settings.CLOUDTASK, "KEEP_FAILED": timedelta(days=90)}
    tasks.broken.add("all")
    receipt = chain(tasks.fragile.s(1), tasks.collect.s()).defer()
    run_queued(errors="retry")
    receipt.cancel()
    with clock.ahead(86400.0 * 85):
        call_command("cloudtask_prune", verbosity=0)
        retry_failed()

    [ran] = run_queued().attempts
    assert ran.outcome is Outcome.CANCELLED


def test_a_chain_that_goes_on_for_months_is_known_to_have_begun(anywhere: str) -> None:
    key = "a" * 32
    assert store().begin_step(key, is_marked=True)
    for days in (70, 140):
        with clock.ahead(86400.0 * days):
            assert store().begin_step(key, is_marked=True)
            call_command("cloudtask_prune", verbosity=0)

    assert store().cancel_call(key) is True


# At once


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("last", ["collect", "note_atomically"])
def test_a_cancel_beside_the_last_member_agrees_with_then(last: str) -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    answers: set[Cancellation] = set()
    for turn in range(20):
        tasks.seen.clear()
        Author.objects.all().delete()
        members = group(tasks.give.s(n) for n in range(2))
        receipt = members.then(getattr(tasks, last).s()).defer()
        run_queued(limit=1, recursive=False)
        answer = _cancelled_beside_a_run(receipt)
        has_run = Author.objects.exists() or any(n == "collect" for n, _ in tasks.seen)
        answers.add(answer)
        assert answer is not PREVENTED
        if answer is TOO_LATE:
            assert has_run, turn
        if last == "note_atomically":
            assert has_run is (answer is TOO_LATE), turn
    assert Execution.objects.exists() or CallMark.objects.exists()


def _cancelled_beside_a_run(receipt: Receipt[Any]) -> Cancellation:
    start, answers = threading.Barrier(2), []

    def work() -> None:
        try:
            start.wait()
            answers.append(receipt.cancel())
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    start.wait()
    run_queued()
    thread.join()
    return answers[0]


def test_a_partial_group_goes_on_with_the_failure_of_a_cancelled_member(
    anywhere: str,
) -> None:
    members = [tasks.stoppable.s(n) for n in range(3)]
    receipt = group(members, partial=True).then(tasks.collect.s()).defer()
    one = queued()[1]
    cloudtask.cancel(one.id)
    run_queued()

    first, failure, last = receipt.result()
    assert (first, last) == (0, 2)
    assert failure.id == one.id
    assert "was cancelled" in failure.error


def _with_a_late_member(**options: Any) -> Any:
    late = tasks.stoppable.using(countdown=3600)
    return group([tasks.give.s(1), late.s(5)], **options)


def _of_late_member() -> str:
    [found] = [one.id for one in queued() if one.task == tasks.stoppable.path]
    return found


def _soon() -> None:
    run_queued(until=timedelta(minutes=1))


@pytest.mark.parametrize("is_first", [True, False])
def test_then_does_not_wait_for_a_cancelled_member_to_be_due(
    commits: None, is_first: bool
) -> None:
    receipt = _with_a_late_member(partial=True).then(tasks.collect.s()).defer()
    late = _of_late_member()
    if not is_first:
        _soon()

    assert cloudtask.cancel(late) is PREVENTED
    assert cloudtask.cancel(late) is PREVENTED
    _soon()
    first, failure = receipt.result(timeout=0)
    assert (first, failure.id) == (1, late)
    run_queued()
    assert sum(one[0] == "collect" for one in tasks.seen) == 1


def test_a_group_fails_when_its_member_is_cancelled_not_when_that_is_due(
    commits: None,
) -> None:
    receipt = _with_a_late_member().then(tasks.collect.s()).defer()
    late = _of_late_member()

    cloudtask.cancel(late)
    with pytest.raises(TaskFailed, match=f"stoppable \\({late}\\) was cancelled"):
        receipt.result(timeout=0)


def test_a_group_is_told_of_a_cancelled_member_with_the_commit(commits: None) -> None:
    receipt = _with_a_late_member(partial=True).then(tasks.collect.s()).defer()
    late = _of_late_member()
    _soon()

    with rolled_back():
        cloudtask.cancel(late)
    _soon()
    assert not any(one[0] == "collect" for one in tasks.seen)
    with transaction.atomic():
        cloudtask.cancel(late)
        assert len(queued()) == 1
    _soon()
    assert receipt.result(timeout=0)[1].id == late


def test_a_group_is_told_once_a_transaction_of_the_store_alone_commits(
    commits: None,
) -> None:
    whole = _with_a_late_member(partial=True).using(database="other")
    receipt = whole.then(tasks.collect.s()).defer()
    late = _of_late_member()
    _soon()

    with rolled_back():
        cloudtask.cancel(late)
    assert len(queued()) == 1
    with transaction.atomic():
        cloudtask.cancel(late)
        assert len(queued()) == 1
    _soon()
    assert receipt.result(timeout=0)[1].id == late


@pytest.mark.parametrize(
    "point",
    ["cancel.committed", "member.failed", "group.before_then", "group.after_then"],
)
def test_a_crash_while_a_group_is_told_of_a_cancel_only_delays_it(
    commits: None, point: str
) -> None:
    receipt = _with_a_late_member(partial=True).then(tasks.collect.s()).defer()
    late = _of_late_member()
    _soon()

    with crash_at(point), pytest.raises(failpoints.Crashed):
        cloudtask.cancel(late)
    run_queued()
    assert receipt.result(timeout=0)[1].id == late
    assert sum(one[0] == "collect" for one in tasks.seen) == 1


def test_a_group_that_can_not_be_told_at_once_is_told_later(
    commits: None, caplog: pytest.LogCaptureFixture
) -> None:
    receipt = _with_a_late_member(partial=True).then(tasks.collect.s()).defer()
    late = _of_late_member()
    _soon()

    def unreachable() -> None:
        raise EnqueueUnavailable("The store is away.")

    with failpoints.at("member.failed", unreachable):
        assert cloudtask.cancel(late) is PREVENTED
    assert "is told of the cancel when that is due: The store is away." in caplog.text
    run_queued()
    assert receipt.result(timeout=0)[1].id == late
