"""Results, where OPTIONS["results"] keeps them in a database."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from cloudtask import runtime
from cloudtask.backend.library import (
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
    task_finished,
)
from cloudtask.backend.task_results import _sealed
from cloudtask.context import KILLED_ATTEMPTS
from cloudtask.exceptions import BadSignature
from cloudtask.message import Delivery
from cloudtask.models import results as rows
from cloudtask.models.results import TaskResultRow
from cloudtask.runtime import Outcome
from cloudtask.stores import store
from cloudtask.testing import run_queued
from cloudtask.transports import memory
from tests.backend import tasks
from tests.testapp.models import Author
from tests.testapp.tasks import Bomb, calls

pytestmark = pytest.mark.django_db(databases=["default", "other"])

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = TaskResultStatus.FAILED, TaskResultStatus.SUCCESSFUL


def messages():
    """The waiting calls; the transaction of the test itself counts as committed."""
    with transaction.atomic():
        pass
    return [entry.message for entry in memory.queue()]


def test_a_result_is_ready_until_it_runs_and_successful_after():
    result = tasks.keep.enqueue({"a": [1]})
    assert tasks.keep.get_result(result.id).status == READY
    run_queued()
    result.refresh()
    assert result.status == SUCCESSFUL
    assert result.return_value == {"a": [1]}
    assert result.attempts == 1
    assert result.started_at <= result.finished_at
    assert result.is_finished


def test_a_result_is_running_while_the_task_does():
    tasks.peek.enqueue()
    run_queued()
    assert calls == [(RUNNING, 1)]


def test_a_result_is_found_by_its_id_alone():
    result = tasks.keep.using(queue_name="mail").enqueue(1)
    found = task_backends["kept"].get_result(result.id)
    assert found.task.module_path == "tests.backend.tasks.keep"
    assert found.task.queue_name == "mail"
    assert (found.args, found.kwargs, found.id) == ([1], {}, result.id)
    assert found.enqueued_at == result.enqueued_at


def test_results_are_there_for_asynchronous_code(transactional_db):
    async def journey():
        result = await tasks.keep.aenqueue(7)
        await sync_to_async(run_queued)()
        await result.arefresh()
        return result.return_value

    assert async_to_sync(journey)() == 7


def test_a_failed_attempt_makes_the_result_ready_again():
    result = tasks.fail_until.enqueue(2)
    with pytest.raises(ValueError, match="not at attempt 1"):
        run_queued()
    result.refresh()
    assert result.status == READY
    assert result.finished_at is None
    assert [error.exception_class for error in result.errors] == [ValueError]


def test_every_attempt_is_counted_and_its_error_kept():
    result = tasks.fail_until.enqueue(3)
    run_queued(errors="retry")
    result.refresh()
    assert result.status == SUCCESSFUL
    assert result.return_value == "at last"
    assert result.attempts == 3
    assert len(result.errors) == 2
    assert "not at attempt 2" in result.errors[1].traceback


def test_the_last_failure_makes_it_failed():
    result = tasks.fail_until.using(max_attempts=2).enqueue(99)
    run_queued(errors="retry")
    result.refresh()
    assert result.status == FAILED
    assert result.attempts == 2
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_permanent_failure_makes_it_failed_at_once():
    result = tasks.give_up.enqueue()
    run_queued(errors="retry")
    result.refresh()
    assert (result.status, result.attempts) == (FAILED, 1)


def never(error, context):
    """A backoff that does not want another attempt."""


def test_a_backoff_that_gives_up_makes_it_failed(settings):
    settings.CLOUDTASK = {"TRUSTED_MODULES": ["tests.backend"]}
    result = tasks.fail_until.using(backoff=never).enqueue(99)
    run_queued(errors="retry")
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == (FAILED, 1, 1)


def test_asking_for_another_attempt_is_no_error():
    result = tasks.ask_again.enqueue()
    run_queued(until=timedelta(seconds=1))
    result.refresh()
    assert (result.status, result.errors) == (READY, [])
    run_queued()
    result.refresh()
    assert (result.status, result.attempts, result.errors) == (SUCCESSFUL, 2, [])


def test_a_call_that_was_killed_too_often_is_failed_and_told():
    told = []

    def receive(sender, task_result, **kwargs):
        told.append((task_result.id, task_result.status, task_result.args))

    task_finished.connect(receive)
    try:
        result = tasks.keep.using(max_attempts=1, transactional=False).enqueue(4)
        message, late = messages()[0], Delivery(retries=KILLED_ATTEMPTS + 1)
        for _ in range(KILLED_ATTEMPTS):
            store().note_start(message.id)
        outcome = runtime.execute(message, late)
    finally:
        task_finished.disconnect(receive)
    result.refresh()
    assert outcome is Outcome.EXHAUSTED
    assert result.status == FAILED
    assert told == [(result.id, FAILED, [4])]


def test_a_call_that_succeeded_does_not_run_again_when_it_is_delivered_twice():
    result = tasks.keep.using(transactional=False).enqueue(1)
    message = messages()[0]
    first, second = (runtime.execute(message, Delivery()) for _ in range(2))
    result.refresh()
    assert (first, second) == (Outcome.SUCCEEDED, Outcome.DUPLICATE)
    assert calls == [1]
    assert (result.status, result.attempts) == (SUCCESSFUL, 1)


def test_a_worker_that_is_faster_than_the_row_makes_the_row():
    result = tasks.keep.enqueue(8)
    TaskResultRow.objects.all().delete()
    run_queued()
    result.refresh()
    assert result.return_value == 8


def test_a_transaction_that_fails_takes_task_and_result_with_it():
    with transaction.atomic():
        tasks.keep.enqueue(1)
        transaction.set_rollback(True)
    assert len(run_queued()) == 0
    assert TaskResultRow.objects.count() == 0


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_results_may_lie_in_another_database():
    result = tasks.keep_elsewhere.enqueue(3)
    run_queued()
    result.refresh()
    assert result.return_value == 3
    assert TaskResultRow.objects.using("other").count() == 1
    assert TaskResultRow.objects.using("default").count() == 0


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
def test_a_result_in_another_database_waits_for_the_commit_too():
    with transaction.atomic():
        tasks.keep_elsewhere.enqueue(3)
        transaction.set_rollback(True)
    assert TaskResultRow.objects.using("other").count() == 0


def test_what_the_result_of_an_atomic_task_says_is_committed_with_its_writes():
    result = tasks.write.using(atomic=True).enqueue("Ann")
    run_queued()
    result.refresh()
    assert result.status == SUCCESSFUL
    assert [author.name for author in Author.objects.all()] == ["Ann"]


def test_the_failure_of_an_atomic_task_is_kept_though_its_writes_are_not():
    result = tasks.write_and_fail.using(atomic=True, max_attempts=1).enqueue("Ann")
    run_queued(errors="retry")
    result.refresh()
    assert result.status == FAILED
    assert [error.exception_class for error in result.errors] == [ValueError]
    assert not Author.objects.exists()


def test_a_value_that_is_no_json_fails_for_good_and_says_so():
    result = tasks.tell_time.enqueue()
    run_queued(errors="retry")
    result.refresh()
    assert calls == ["told"]
    assert result.status == FAILED
    assert "datetime" in result.errors[0].traceback
    assert result.errors[0].exception_class is TypeError


def test_a_task_that_exits_has_failed():
    result = tasks.leave.using(max_attempts=2).enqueue()
    run_queued(errors="retry")
    result.refresh()
    assert result.status == FAILED
    assert [one.exception_class for one in result.errors] == [SystemExit, SystemExit]


def test_such_a_value_does_no_harm_where_no_results_are_kept():
    tasks.tell_time_to_nobody.enqueue()
    assert [ran.outcome for ran in run_queued().attempts] == [Outcome.SUCCEEDED]


def test_a_result_that_can_not_be_written_does_not_make_the_task_run_again(
    monkeypatch,
):
    def broken(self, result):
        raise DatabaseError("the disk is full")

    tasks.keep.enqueue(1)
    monkeypatch.setattr("cloudtask.backend.task_results.Results.save", broken)
    monkeypatch.setattr(
        "cloudtask.backend.task_results.Results.started", lambda *_: None
    )
    run_queued()
    assert calls == [1]


def test_an_unknown_id_has_no_result():
    with pytest.raises(TaskResultDoesNotExist):
        tasks.keep.get_result("nothing")


def test_the_result_of_another_backend_is_not_this_one_s():
    result = tasks.keep.enqueue(1)
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["kept_elsewhere"].get_result(result.id)


def test_a_backend_without_results_says_how_to_keep_them():
    assert task_backends["default"].supports_get_result is False
    assert task_backends["kept"].supports_get_result is True
    with pytest.raises(NotImplementedError, match="results"):
        tasks.note.get_result("any")


def test_a_row_that_somebody_altered_is_not_believed():
    result = tasks.keep.enqueue(1)
    TaskResultRow.objects.update(call=b'["os.system"]')
    with pytest.raises(BadSignature, match="call is refused"):
        tasks.keep.get_result(result.id)


def test_old_results_are_pruned_and_unfinished_ones_stay():
    tasks.keep.enqueue(1)
    run_queued()
    waiting = tasks.keep.enqueue(2)
    assert rows.prune("default", timedelta(days=1)) == 0
    assert rows.prune("default", timedelta(0)) == 1
    assert tasks.keep.get_result(waiting.id).args == [2]


def test_the_command_prunes_results_with_the_rest():
    tasks.keep.enqueue(1)
    run_queued()
    TaskResultRow.objects.update(finished_at=timezone.now() - timedelta(days=31))
    said = StringIO()
    call_command("cloudtask_prune", stdout=said)
    assert "1 results" in said.getvalue()
    assert not TaskResultRow.objects.exists()


def test_the_admin_s_text_for_a_row_names_the_task():
    result = tasks.keep.enqueue(1)
    row = TaskResultRow.objects.get()
    assert str(row) == f"tests.backend.tasks.keep ({result.id})"


@pytest.mark.parametrize("column", ["call", "value", "errors"])
def test_a_column_of_another_result_is_refused(column):
    ours, theirs = finished(1), finished(2)
    moved = getattr(TaskResultRow.objects.get(pk=theirs.id), column)
    TaskResultRow.objects.filter(pk=ours.id).update(**{column: moved})

    with pytest.raises(BadSignature, match=f"{ours.id} / {column} is refused"):
        tasks.keep.get_result(ours.id)


def finished(number):
    """A result of a call that failed once and then succeeded, with every column."""
    result = tasks.keep.enqueue(number)
    run_queued()
    row = TaskResultRow.objects.get(pk=result.id)
    row.errors = _sealed([["builtins.ValueError", "traceback"]], row.pk, "errors")
    row.save()
    return result


def test_an_attempt_starts_although_errors_before_it_are_refused():
    result = tasks.keep.enqueue(1)
    TaskResultRow.objects.update(errors=b'[["x", {"$": ["tests.bomb", "tick"]}]]')

    run_queued()

    assert tasks.keep.get_result(result.id).errors == []
    assert Bomb.decoded == []
