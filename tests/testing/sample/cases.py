"""unittest cases, some of which are to fail."""

from __future__ import annotations

import unittest

from django.test import TestCase, TransactionTestCase

from cloudtask.testing import CloudTaskTestMixin, Faults, queued, run_queued
from tests.testapp.tasks import calls, fail, note


class ADjangoTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        note.defer("of no test")
        note.using(transactional=False).defer("of no test")

    def setUp(self):
        calls.clear()
        note.using(transactional=False).defer("set up")

    def test_1_leaves_a_task(self):
        note.defer("left")
        assert len(queued()) == 2

    def test_2_starts_with_a_clean_queue(self):
        assert [call.args for call in queued()] == [("set up",)]
        run_queued()
        assert len(calls) == 1

    def test_3_a_failing_task_fails_the_test(self):
        fail.defer("on purpose")
        run_queued()


class ATransactionTestCase(TransactionTestCase):
    def test_1_leaves_a_task(self):
        note.defer("left")

    def test_2_starts_with_a_clean_queue(self):
        assert queued() == []


class APlainCase(unittest.TestCase):
    def test_1_leaves_a_task(self):
        note.defer("left")

    def test_2_starts_with_a_clean_queue(self):
        assert queued() == []


class APlainCaseWithTheMixin(CloudTaskTestMixin, unittest.TestCase):
    def test_1_leaves_a_task(self):
        note.defer("left")

    def test_2_starts_with_a_clean_queue(self):
        assert self.queued() == []


class WithTheMixin(CloudTaskTestMixin, TestCase):
    def setUp(self):
        calls.clear()

    def test_methods(self):
        with self.enqueues(note, 1):
            note.defer(1)
        self.assert_enqueued(note, count=1)
        self.assert_not_enqueued(fail)
        assert len(self.cloudtask_queue) == 1
        assert len(self.run_queued()) == 1
        self.assert_idempotent(note)

    def test_a_failure_tells_the_seed(self):
        note.defer(1)
        self.run_queued(faults=Faults(duplicate=True, seed=42))
        assert len(calls) == 1

    def test_a_forgotten_run(self):
        note.defer(1)
        assert calls


class Strict(CloudTaskTestMixin, TestCase):
    cloudtask_strict = True

    def test_left(self):
        note.defer("left behind")

    def test_ran(self):
        note.defer(1)
        self.run_queued()
