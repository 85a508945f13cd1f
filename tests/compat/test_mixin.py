"""djangae's test mixin, on Django's own TestCase and TransactionTestCase."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from cloudtask.deferred import defer
from cloudtask.testing import (
    TaskFailedBehaviour,
    TaskFailedError,
    TestCaseMixin,
    queued,
)
from tests.compat import things
from tests.testapp import tasks
from tests.testapp.models import Author
from tests.testapp.tasks import calls


def add_two():
    defer(things.note, 1)
    defer(things.note, 2)


class Processing(TestCaseMixin, TestCase):
    def test_it_runs_what_is_queued(self):
        defer(things.add_author, "Ann")
        self.process_task_queues()
        assert Author.objects.get().name == "Ann"

    def test_it_runs_what_that_enqueues(self):
        defer(add_two)
        self.process_task_queues()
        assert calls == [((1,), {}), ((2,), {})]

    def test_it_runs_tasks_of_ours_too(self):
        tasks.note.defer(1)
        self.process_task_queues()
        assert calls == [((1,), {})]

    def test_it_does_not_wait_for_an_eta(self):
        defer(things.note, 1, _countdown=3600)
        self.process_task_queues()
        assert calls == [((1,), {})]

    def test_it_runs_one_queue_when_told_so(self):
        defer(things.note, 1, _queue="mail")
        defer(things.note, 2)
        self.process_task_queues("mail")
        assert calls == [((1,), {})]
        self.assertNumTasksEquals(1)

    def test_the_environment_of_the_task_is_that_of_the_task(self):
        defer(things.see_environment, _name="known", _queue="mail")
        self.process_task_queues()
        assert calls == [(True, "known", "mail", 0, 0, False)]


class Counting(TestCaseMixin, TestCase):
    def test_it_counts_what_is_queued(self):
        before = self.get_task_count()
        defer(things.note)
        defer(things.note, _queue="mail", _countdown=60)
        assert self.get_task_count() == before + 2
        assert self.get_task_count("mail") == 1
        assert self.get_task_count(queue_name="slow") == 0

    def test_it_asserts_how_many(self):
        defer(things.note)
        self.assertNumTasksEquals(1)
        self.assertNumTasksEquals(0, queue_name="mail")
        with self.assertRaisesMessage(AssertionError, "1 tasks are queued, not 2."):
            self.assertNumTasksEquals(2)

    def test_flushing_forgets_them(self):
        defer(things.note)
        defer(things.note, _queue="mail")
        self.flush_task_queues("mail")
        self.assertNumTasksEquals(1)
        self.flush_task_queues()
        self.assertNumTasksEquals(0)
        self.process_task_queues()
        assert calls == []


class Failing(TestCaseMixin, TestCase):
    def test_by_default_a_failure_is_raised_with_what_the_task_raised(self):
        defer(things.fail, _name="broken")
        with pytest.raises(TaskFailedError) as caught:
            self.process_task_queues()
        assert caught.value.task_name == "broken"
        assert caught.value.status_code == 500
        assert isinstance(caught.value.original_exception, ValueError)
        assert caught.value.__cause__ is caught.value.original_exception

    def test_the_first_failure_ends_it_and_the_task_stays(self):
        defer(things.fail)
        defer(things.note)
        with pytest.raises(TaskFailedError):
            self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RAISE_ERROR)
        assert calls == [1]
        self.assertNumTasksEquals(2)

    def test_it_can_be_retried(self):
        defer(things.fail_once)
        defer(things.note)
        self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RETRY_TASK)
        assert calls == [1, ((), {}), 2]

    def test_but_not_for_ever(self):
        self.max_task_retry_count = 4
        defer(things.fail)
        with pytest.raises(TaskFailedError):
            self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RETRY_TASK)
        assert calls == [1, 2, 3, 4]

    def test_it_can_be_ignored(self):
        defer(things.fail)
        defer(things.note)
        self.process_task_queues(failure_behaviour=TaskFailedBehaviour.DO_NOTHING)
        assert calls == [1, ((), {})]
        self.assertNumTasksEquals(0)

    def test_a_permanent_failure_is_none_and_the_task_is_gone(self):
        for behaviour in (
            TaskFailedBehaviour.RAISE_ERROR,
            TaskFailedBehaviour.RETRY_TASK,
            TaskFailedBehaviour.DO_NOTHING,
        ):
            defer(things.fail_for_good)
            self.process_task_queues(failure_behaviour=behaviour)
            self.assertNumTasksEquals(0)
        assert calls == ["failing"] * 3


class Transactions:
    """For a TestCase, in a transaction of its own, and for one that is in none."""

    process_task_queues: Any
    assertNumTasksEquals: Any

    def test_a_rolled_back_block_enqueues_nothing(self):
        with transaction.atomic():
            defer(things.note)
            transaction.set_rollback(True)
        self.process_task_queues()
        assert calls == []

    def test_a_block_that_is_open_has_not_enqueued_yet(self):
        with transaction.atomic():
            defer(things.note)
            self.assertNumTasksEquals(0)
            self.process_task_queues()
            assert calls == []
        self.assertNumTasksEquals(1)
        self.process_task_queues()
        assert calls == [((), {})]

    def test_what_was_enqueued_before_the_block_runs_inside_of_it(self):
        defer(things.note, 1)
        with transaction.atomic():
            defer(things.note, 2)
            self.process_task_queues()
            assert calls == [((1,), {})]

    def test_an_inner_block_counts_when_the_outer_one_has_ended(self):
        with transaction.atomic():
            with transaction.atomic():
                defer(things.note)
            self.assertNumTasksEquals(0)
        self.assertNumTasksEquals(1)

    def test_a_rolled_back_savepoint_takes_its_own_tasks_only(self):
        with transaction.atomic():
            defer(things.note, 1)
            with transaction.atomic():
                defer(things.note, 2)
                transaction.set_rollback(True)
        self.process_task_queues()
        assert calls == [((1,), {})]


class TransactionsOfATestCase(TestCaseMixin, Transactions, TestCase):
    pass


class TransactionsOfATransactionTestCase(
    TestCaseMixin, Transactions, TransactionTestCase
):
    pass


class WithoutADatabase(TestCaseMixin, SimpleTestCase):
    def test_it_works(self):
        defer(things.note)
        self.process_task_queues()
        assert calls == [((), {})]


class OfTheSetUp(TestCaseMixin, TestCase):
    @classmethod
    def setUpTestData(cls):
        defer(things.note, "of the class")

    def test_what_was_enqueued_before_the_test_is_not_of_the_test(self):
        self.assertNumTasksEquals(0)
        assert queued() == []
