"""What `receipt.cancel()` answers holds, wherever the call is and whatever crashes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import connections, transaction

from cloudtask import Cancellation, TaskFailed, failpoints
from cloudtask.delivering.settling import Outcome
from cloudtask.models import CallMark, Execution, OutboxMessage
from cloudtask.sending import relay
from cloudtask.testing import crash_at, run_queued
from cloudtask.transports import memory
from tests.durability.database import rolled_back
from tests.receipts import tasks
from tests.support import clock
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PREVENTED, TOO_LATE, REQUESTED = Cancellation


def test_a_cancelled_call_does_not_begin(anywhere: str) -> None:
    receipt = tasks.stoppable.defer()

    assert receipt.cancel() is PREVENTED
    assert receipt.cancel() is PREVENTED
    assert run_queued().attempts == []
    assert tasks.asked == []
    with pytest.raises(TaskFailed, match="was cancelled"):
        receipt.result(timeout=0)


def test_the_delivery_of_a_cancelled_call_finds_the_mark(anywhere: str) -> None:
    receipt = tasks.stoppable.using(transactional=False).defer()
    waiting = memory.queue().take({receipt.id})
    assert receipt.cancel() is PREVENTED
    memory.queue().put_back(waiting)  # the service delivers it nevertheless

    [ran] = run_queued().attempts

    assert ran.outcome is Outcome.CANCELLED
    assert tasks.asked == []


def test_a_call_that_has_succeeded_is_too_late(anywhere: str) -> None:
    receipt = tasks.stoppable.defer()
    run_queued()

    assert receipt.cancel() is TOO_LATE
    assert receipt.result() == 1


def test_a_failed_task_is_too_late_and_can_be_retried(db: None) -> None:
    tasks.broken.add("stoppable")
    receipt = tasks.stoppable.using(max_attempts=1).defer()
    run_queued(errors="retry")

    assert receipt.cancel() is TOO_LATE
    tasks.broken.clear()
    call_command("cloudtask_failed", "retry", receipt.id)
    run_queued()
    assert tasks.asked[-1] == "end"


@pytest.mark.parametrize("how", ["fails", "Retry"])
def test_a_running_call_sees_the_cancel_and_is_not_tried_again(
    anywhere: str, how: str
) -> None:
    tasks.broken.update({"itself", how})
    tasks.asked.append(tasks.stoppable.defer())

    [ran] = run_queued(errors="retry").attempts

    assert ran.outcome is Outcome.CANCELLED
    assert tasks.asked[1:] == [False, REQUESTED, True]
    assert memory.queue().pop() is None


def test_a_call_that_waits_for_its_retry_is_not_tried_again(db: None) -> None:
    tasks.broken.add("Retry")
    receipt = tasks.stoppable.defer()
    run_queued(recursive=False)
    assert tasks.asked == [1]

    assert receipt.cancel() is REQUESTED
    [ran] = run_queued().attempts
    assert ran.outcome is Outcome.CANCELLED
    assert tasks.asked == [1]


def test_an_ordinary_call_is_only_requested(db: None) -> None:
    receipt = tasks.forgetful.defer()

    assert receipt.cancel() is REQUESTED
    assert run_queued().attempts == []  # its task was deleted in time
    assert not CallMark.objects.exists()


def test_an_ordinary_delivery_makes_no_query(
    db: None, django_assert_num_queries: Any
) -> None:
    tasks.forgetful.using(transactional=False).defer()

    with django_assert_num_queries(0):
        run_queued()


def test_an_atomic_call_is_exact_without_the_option(db: None) -> None:
    first, second = tasks.write.defer("a"), tasks.write.defer("b")
    assert first.cancel() is PREVENTED
    run_queued()

    assert second.cancel() is TOO_LATE
    assert [*Author.objects.values_list("name", flat=True)] == ["b"]
    with pytest.raises(TaskFailed, match="was cancelled"):
        first.result(timeout=0)


def test_the_delivery_of_an_atomic_call_finds_the_record(db: None) -> None:
    receipt = tasks.write.using(transactional=False).defer("a")
    waiting = memory.queue().take({receipt.id})
    receipt.cancel()
    memory.queue().put_back(waiting)

    [ran] = run_queued().attempts

    assert ran.outcome is Outcome.CANCELLED
    assert not Author.objects.exists()


def test_a_unique_key_is_free_at_once(db: None) -> None:
    first = tasks.stoppable.using(unique=True).defer()
    first.cancel()
    second = tasks.stoppable.using(unique=True).defer()

    assert second.id != first.id
    run_queued()
    assert tasks.asked[-1] == "end"


def test_asynchronous_code_awaits_it(db: None) -> None:
    receipt = tasks.stoppable.defer()

    assert async_to_sync(receipt.acancel)() is PREVENTED


@pytest.mark.parametrize("name", ["stoppable", "write"])
def test_pruning_keeps_a_cancel_for_as_long_as_the_call_may_wait(
    db: None, name: str
) -> None:
    task = getattr(tasks, name).using(transactional=False, countdown=86400 * 29)
    receipt = task.defer(*(["a"] if name == "write" else []))
    waiting = memory.queue().take({receipt.id})
    assert receipt.cancel() is PREVENTED
    with clock.ahead(86400.0 * 60):  # 31 days late, which is within MAX_AGE
        call_command("cloudtask_prune", verbosity=0)
    memory.queue().put_back(waiting)

    [ran] = run_queued().attempts
    assert ran.outcome is Outcome.CANCELLED


def test_marks_are_pruned(db: None) -> None:
    tasks.stoppable.defer().cancel()
    tasks.write.defer("a").cancel()
    call_command("cloudtask_prune", verbosity=0)
    assert CallMark.objects.count() == 1

    with clock.ahead(86400.0 * 400):
        call_command("cloudtask_prune", verbosity=0)
    assert not CallMark.objects.exists()
    assert not Execution.objects.exists()


@pytest.mark.parametrize("name", ["forgetful", "stoppable", "write"])
def test_a_call_of_the_open_transaction_never_leaves_it(
    commits: None, name: str
) -> None:
    task = getattr(tasks, name)
    with transaction.atomic():
        receipt = task.defer(*(["a"] if name == "write" else []))
        assert receipt.cancel() is PREVENTED

    assert len(memory.queue()) == 0
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize("name", ["stoppable", "write"])
def test_a_cancel_that_is_rolled_back_was_never_there(commits: None, name: str) -> None:
    task = getattr(tasks, name)
    receipt = task.defer(*(["a"] if name == "write" else []))
    with rolled_back():
        assert receipt.cancel() is PREVENTED

    assert len(run_queued().attempts) == 1
    assert receipt.result() is not None


def test_a_savepoint_undoes_the_cancel_of_a_row(commits: None) -> None:
    with transaction.atomic():
        receipt = tasks.stoppable.defer()
        with rolled_back():
            assert receipt.cancel() is PREVENTED

    run_queued()
    assert receipt.result() == 1


@pytest.mark.parametrize("point", ["cancel.before_commit", "cancel.committed"])
def test_a_crash_leaves_the_call_or_the_mark(commits: None, point: str) -> None:
    receipt = tasks.stoppable.defer()
    with crash_at(point), pytest.raises(failpoints.Crashed):
        receipt.cancel()

    run_queued()
    assert (tasks.asked == []) == (point == "cancel.committed")
    assert CallMark.objects.count() == 1  # of the cancel, or of the delivery


@pytest.mark.parametrize("point", ["relay.claimed", "relay.before_send"])
def test_a_relay_that_has_the_row_sends_what_then_does_not_begin(
    commits: None, point: str
) -> None:
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        tasks.stoppable.using(transactional=True).defer()
    [row] = OutboxMessage.objects.all()
    opened = relay.opened(row)
    receipt = tasks.receipt_of(opened)
    answers: list[Any] = []
    with (
        clock.ahead(60.0),
        failpoints.at(point, lambda: answers.append(receipt.cancel())),
    ):
        relay.relay("default")

    [ran] = run_queued().attempts
    assert answers == [PREVENTED]
    assert ran.outcome is Outcome.CANCELLED
    assert tasks.asked == []


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("name", ["stoppable", "write"])
def test_a_cancel_and_a_delivery_at_once_agree(name: str) -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    task = getattr(tasks, name)
    for turn in range(20):
        tasks.asked.clear()
        Author.objects.all().delete()
        receipt = task.defer(*([f"a{turn}"] if name == "write" else []))
        waiting = memory.queue().take({receipt.id})
        memory.queue().put_back(waiting)
        start, answers = threading.Barrier(2), []

        def cancel() -> None:
            try:
                start.wait()  # noqa: B023
                answers.append(receipt.cancel())  # noqa: B023
            finally:
                connections.close_all()

        thread = threading.Thread(target=cancel)
        thread.start()
        start.wait()
        run_queued()
        thread.join()
        has_run = bool(tasks.asked) or Author.objects.exists()
        assert has_run is (answers != [PREVENTED]), (turn, answers)
    assert Execution.objects.exists() or CallMark.objects.exists()
