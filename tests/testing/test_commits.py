"""Calls that wait for a commit, in tests whose transaction never commits."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from django.db import connections, transaction
from django.test import TestCase, TransactionTestCase

from cloudtask.exceptions import DuplicateTask
from cloudtask.sending import relay
from cloudtask.testing import Faults, crash_at, eager, queued, run_queued
from cloudtask.testruns import queued_calls
from cloudtask.testruns.mixin import TaskQueue
from tests.testapp.models import Author
from tests.testing import tasks
from tests.testing.tasks import seen

BOTH = pytest.mark.parametrize("small", [False, True])


@contextmanager
def rolled_back(alias="default"):
    with transaction.atomic(using=alias):
        yield
        transaction.set_rollback(True, using=alias)


def marks():
    return [args[0] for args, _ in seen]


@BOTH
@pytest.mark.django_db
def test_a_transactional_task_is_queued_before_the_commit_and_runs(small):
    tasks.see.using(small=small).defer(1)
    (call,) = queued()
    assert (call.args, call.awaits_commit) == ((1,), True)
    assert "awaits a commit" in str(call)
    run_queued()
    assert marks() == [1]
    assert queued() == []


@BOTH
@pytest.mark.django_db
def test_it_is_gone_after_a_rollback(small):
    with rolled_back():
        tasks.see.using(small=small).defer(1)
        assert len(queued()) == 1
    assert queued() == []
    assert len(run_queued()) == 0


@BOTH
@pytest.mark.django_db(databases=["default", "other"])
def test_every_alias_counts(small):
    tasks.see.using(database="other", small=small).defer("other")
    tasks.see.using(small=small).defer("default")
    with rolled_back("other"):
        tasks.see.using(database="other", small=small).defer("rolled back")
    assert len(queued()) == 2
    run_queued()
    assert sorted(marks()) == ["default", "other"]


@pytest.mark.django_db
def test_the_outbox_is_empty_after_a_run():
    from cloudtask.models import OutboxMessage

    tasks.see.defer(1)
    assert OutboxMessage.objects.count() == 1
    run_queued()
    assert OutboxMessage.objects.count() == 0


@pytest.mark.django_db
def test_what_tasks_enqueue_in_their_transactions_runs_too(account):
    tasks.pass_on.defer(account.pk, 5)
    assert run_queued().calls == {tasks.pass_on.path: 1, tasks.pay.path: 1}
    account.refresh_from_db()
    assert account.pages == 5


@pytest.mark.django_db
def test_other_peoples_callbacks_are_left_alone(django_capture_on_commit_callbacks):
    called = []
    with django_capture_on_commit_callbacks() as callbacks:
        transaction.on_commit(lambda: called.append("theirs"))
        tasks.see.defer(1)
        run_queued()
        transaction.on_commit(lambda: called.append("more"))
    assert (called, marks()) == ([], [1])
    assert len(callbacks) == 3


@BOTH
@pytest.mark.django_db
def test_run_beside_captured_callbacks_they_run_once(
    django_capture_on_commit_callbacks, small
):
    called = []
    tasks.see.using(small=small).defer("before")
    with django_capture_on_commit_callbacks(execute=True):
        tasks.see.using(small=small).defer("inside")
        run_queued()
        transaction.on_commit(lambda: called.append("theirs"))
        tasks.see.using(small=small).defer("late")
    run_queued()
    assert sorted(marks()) == ["before", "inside", "late"]
    assert called == ["theirs"]


@pytest.mark.django_db(transaction=True)
def test_with_real_transactions_the_commit_enqueues():
    with transaction.atomic():
        tasks.see.defer(1)
        assert queued()[0].awaits_commit
    assert not queued()[0].awaits_commit
    run_queued()
    assert marks() == [1]


@pytest.mark.django_db(transaction=True)
def test_run_inside_an_open_transaction_the_commit_sends_nothing_twice():
    with transaction.atomic():
        tasks.see.defer(1)
        run_queued()
    run_queued()
    assert marks() == [1]


@pytest.mark.django_db(transaction=True)
def test_with_real_transactions_a_rollback_leaves_nothing():
    with rolled_back():
        tasks.see.defer(1)
    assert queued() == []


@pytest.mark.django_db
def test_many_calls_in_one_transaction_are_sent_by_two_statements(
    django_assert_num_queries,
):
    for _ in range(200):
        tasks.see.defer()
    with django_assert_num_queries(2):  # one reads their rows, one deletes them
        queued_calls.flush()
    run_queued()
    assert len(seen) == 200


@pytest.mark.django_db
def test_the_queue_can_be_cleared_of_what_awaits_a_commit():
    tasks.see.defer(1)
    tasks.see.using(transactional=False).defer(2)
    queue = TaskQueue()
    assert (len(queue), [call.args for call in queue]) == (2, [(2,), (1,)])
    queue.clear()
    assert (len(queue), queued(), len(run_queued())) == (0, [], 0)


@pytest.mark.django_db
def test_a_savepoint_that_is_rolled_back_by_hand_takes_its_calls():
    # Its name from Django 6.1 on, which warns of the old one.
    make_savepoint = getattr(transaction, "savepoint_create", transaction.savepoint)
    savepoint = make_savepoint()
    tasks.see.defer("undone")
    transaction.savepoint_rollback(savepoint)
    tasks.see.defer("kept")

    assert [call.args for call in queued()] == [("kept",)]
    run_queued()
    assert marks() == ["kept"]


@pytest.mark.django_db(transaction=True)
def test_what_a_foreign_hook_kept_from_being_sent_is_queued():
    @transaction.atomic
    def work():
        transaction.on_commit(lambda: 1 / 0)
        tasks.see.defer(1)

    with pytest.raises(ZeroDivisionError):
        work()
    assert [call.awaits_commit for call in queued()] == [False]
    run_queued()
    assert marks() == [1]


@pytest.mark.django_db(transaction=True)
def test_a_transaction_by_hand_is_waited_for():
    transaction.set_autocommit(False)
    try:
        tasks.see.defer("undone")
        assert queued()[0].awaits_commit
        transaction.rollback()
        assert queued() == []
        tasks.see.defer("kept")
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    run_queued()
    assert marks() == ["kept"]


# Names that are taken


def defer_twice():
    tasks.see.using(name="once").defer("first")
    tasks.see.using(name="once").defer("second")


@pytest.mark.django_db
def test_the_second_call_of_a_name_comes_out_as_the_failure_it_is():
    defer_twice()
    with pytest.raises(DuplicateTask, match=r"see \(.*named 'once'"):
        run_queued()
    assert len(run_queued()) == 1
    assert marks() == ["first"]


@pytest.mark.django_db(transaction=True)
def test_so_it_does_after_a_real_commit():
    with transaction.atomic():
        defer_twice()
    with pytest.raises(DuplicateTask):
        run_queued()
    run_queued()
    assert marks() == ["first"]


@pytest.mark.django_db
def test_so_it_does_when_a_task_has_enqueued_both():
    tasks.defer_by_name.defer("once", "once")
    with pytest.raises(DuplicateTask):
        run_queued()
    run_queued()
    assert marks() == ["once"]


@pytest.mark.parametrize("errors", ["retry", "collect"])
@pytest.mark.django_db
def test_other_runs_report_it_as_parked(errors):
    defer_twice()
    report = run_queued(errors=errors)
    (parked,) = report.parked
    assert (parked.call.task, parked.call.args) == (tasks.see.path, ("second",))
    assert isinstance(parked.error, DuplicateTask)
    assert f"parked: {tasks.see.path}('second')" in repr(report)
    assert (marks(), run_queued().parked) == (["first"], [])


@pytest.mark.django_db
def test_under_faults_it_is_told_once_and_is_what_the_relay_parks():
    defer_twice()
    report = run_queued(faults=crash_at("outbox.committed"))
    # The crash left both rows of the commit. They may be equally old to the relay.
    (parked,) = report.parked
    assert sorted([*marks(), *parked.call.args]) == ["first", "second"]
    assert [row.error.split(":")[0] for row in relay.parked("default")] == [
        "DuplicateTask"
    ]


@pytest.mark.django_db
def test_in_an_eager_block_it_comes_out_of_defer():
    with eager():
        tasks.see.using(name="once").defer("first")
        with pytest.raises(DuplicateTask):
            tasks.see.using(name="once").defer("second")
    assert (marks(), queued()) == (["first"], [])


@pytest.mark.django_db
def test_what_was_refused_in_a_rolled_back_block_is_not_told():
    tasks.see.using(name="once").defer("first")
    with rolled_back():
        tasks.see.using(name="once").defer("second")
    assert run_queued(errors="collect").parked == []


@pytest.mark.django_db
def test_a_call_that_a_relay_sends_again_has_its_own_name():
    tasks.see.using(name="once").defer("first")
    report = run_queued(
        faults=crash_at("outbox.sent"), until=0, errors="collect", recursive=False
    )
    assert (report.parked, relay.parked("default")) == ([], [])
    assert marks() == ["first"]


class InAPlainTestCase(TestCase):
    databases = {"default", "other"}

    @classmethod
    def setUpTestData(cls):
        tasks.see.defer("of no test")
        tasks.see.using(transactional=False).defer("of no test")

    def test_what_the_class_enqueued_belongs_to_no_test(self):
        assert queued() == []
        tasks.see.defer("mine")
        assert len(queued()) == 1
        run_queued()
        assert marks() == ["mine"]

    def test_nor_to_the_next(self):
        assert queued() == []

    def test_nor_to_one_in_which_the_process_crashes(self):
        tasks.see.using(countdown=3600).defer("mine")
        report = run_queued(faults=crash_at("outbox.committed"))
        assert report.struck
        assert marks() == ["mine"]

    def test_nor_to_one_with_faults(self):
        for number in range(5):
            tasks.fan_out.defer(number)
            run_queued(faults=Faults(crash=True, enqueue_errors=True, seed=number))
        assert "of no test" not in marks()

    def test_the_task_sees_the_data_of_the_test(self):
        Author.objects.create(name="here")
        tasks.see.defer(1)
        run_queued()
        assert connections["default"].in_atomic_block
        tasks.in_the_other.using(database="other").defer("there")
        run_queued()
        assert Author.objects.using("other").get().name == "there"

    def test_captured_callbacks(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            tasks.see.defer(1)
        assert len(callbacks) == 1
        assert not queued()[0].awaits_commit
        run_queued()
        assert marks() == [1]


class InATransactionTestCase(TransactionTestCase):
    def test_a_commit_enqueues(self):
        with transaction.atomic():
            tasks.see.defer(1)
        run_queued()
        assert marks() == [1]

    def test_the_queue_is_clean(self):
        assert queued() == []
