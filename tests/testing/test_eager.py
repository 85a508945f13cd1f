"""eager(): defer() that runs the call at once."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.db import transaction

from cloudtask.exceptions import UnsupportedValue
from cloudtask.testing import EndlessTasks, eager, queued, run_queued
from tests.testing import tasks
from tests.testing.tasks import seen


def test_inside_the_block_a_call_runs_at_once():
    with eager():
        tasks.see.defer(1)
        assert seen == [((1,), {})]
    tasks.see.defer(2)
    assert len(seen) == len(queued()) == 1


@eager()
def test_it_decorates_a_function():
    tasks.see.defer(1)
    assert len(seen) == 1


def test_it_decorates_an_asynchronous_function():
    @eager()
    async def work():
        await asyncio.sleep(0)
        await tasks.see.adefer(1)
        return len(seen)

    assert asyncio.run(work()) == 1
    tasks.see.defer(2)
    assert len(seen) == 1


def test_the_wire_format_is_taken():
    with eager():
        tasks.see.defer({1: (2,)})
        with pytest.raises(UnsupportedValue):
            tasks.see.defer(threading.Lock())
    assert seen == [(({1: (2,)},), {})]


def test_an_error_comes_out_of_defer_and_leaves_nothing_queued():
    with eager(), pytest.raises(tasks.Trouble, match="now"):
        tasks.fail.defer("now")
    assert queued() == []


def test_eta_and_retries_do_not_wait():
    with eager():
        tasks.see.using(countdown=3600).defer("late")
        tasks.ask_again.defer(2)
    assert len(seen) == 4
    assert queued() == []


def test_what_was_queued_before_stays():
    tasks.see.defer("before")
    with eager():
        tasks.see.defer("now")
    assert [args for args, _ in seen] == [("now",)]
    assert [call.args for call in queued()] == [("before",)]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.django_db
def test_an_open_transaction_is_not_waited_for(small):
    with eager(), transaction.atomic():
        tasks.see.using(small=small).defer(1)
        assert len(seen) == 1
    assert len(run_queued()) == 0


@pytest.mark.django_db
def test_other_calls_of_the_transaction_still_wait():
    tasks.see.defer("before")
    with eager():
        tasks.see.defer("now")
    assert [args for args, _ in seen] == [("now",)]


def test_many_and_nested_calls_run():
    with eager():
        tasks.fan_out.defer(3)
    assert len(seen) == 3


def test_endless_tasks_are_named():
    with eager(), pytest.raises(EndlessTasks, match=r"ping -> .*pong"):
        tasks.ping.defer()
    with eager():
        tasks.see.defer("fine again")
    assert len(seen) == 1


def test_blocks_nest():
    with eager():
        with eager():
            tasks.see.defer(1)
        tasks.see.defer(2)
    assert len(seen) == 2
