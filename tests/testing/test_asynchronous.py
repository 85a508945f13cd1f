"""Asynchronous tasks, and asynchronous tests."""

from __future__ import annotations

import asyncio

import pytest
from django.test import TestCase, TransactionTestCase

from cloudtask.testing import arun_queued, enqueues, run_queued
from tests.testapp.models import Author
from tests.testing import tasks
from tests.testing.tasks import seen


def test_an_asynchronous_task_runs_in_a_synchronous_test():
    tasks.asynchronous.defer(1)
    run_queued()
    assert seen == [("async", 1)]


@pytest.mark.django_db
def test_its_orm_calls_use_the_connection_of_the_test():
    tasks.asynchronous_author.defer("x")
    run_queued()
    assert Author.objects.get().name == "x"


@pytest.mark.parametrize("task", [tasks.see, tasks.asynchronous])
def test_inside_a_running_loop_both_kinds_run(task):
    async def work():
        await task.adefer(1)
        return run_queued()

    assert len(asyncio.run(work()).ran) == 1


@pytest.mark.django_db
def test_inside_a_running_loop_the_connection_of_the_thread_is_used():
    Author.objects.create(name="of the test")

    async def work():
        tasks.asynchronous_author.using(transactional=False).defer("x")
        run_queued()

    asyncio.run(work())
    assert Author.objects.count() == 2


def test_the_loop_is_back_afterwards():
    async def work():
        tasks.asynchronous.defer(1)
        run_queued()
        await asyncio.sleep(0)
        return asyncio.get_running_loop().is_running()

    assert asyncio.run(work())


class InAnAsynchronousTest(TestCase):
    async def test_tasks_see_the_data_of_the_test(self):
        await Author.objects.acreate(name="a")
        await tasks.add_author.adefer("b")
        with enqueues(tasks.asynchronous_author):
            await tasks.asynchronous_author.adefer("c")
        report = await arun_queued()
        assert len(report.ran) == 2
        assert await Author.objects.acount() == 3

    async def test_options_are_those_of_run_queued(self):
        await tasks.see.adefer(1)
        report = await arun_queued(tasks.see, errors="collect", via="http")
        assert report.calls[tasks.see] == 1

    async def test_failures_come_out(self):
        await tasks.fail.adefer("here")
        with self.assertRaisesMessage(tasks.Trouble, "here"):
            await arun_queued()


class WithRealTransactions(TransactionTestCase):
    async def test_tasks_see_the_data_of_the_test(self):
        await tasks.asynchronous_author.adefer("c")
        await arun_queued()
        assert await Author.objects.acount() == 1
