"""Attempts: how many, how far apart, and what the last one leaves."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.db import connections

from cloudtask import clock, codec, envelope, failpoints, registry
from cloudtask.context import KILLED_ATTEMPTS
from cloudtask.delivering import failed
from cloudtask.failpoints import Crashed
from cloudtask.models import Execution, FailedTask, PayloadChunk
from cloudtask.options import Backoff
from cloudtask.sending.enqueueing import make_message
from tests.durability import tasks
from tests.testapp.models import Author
from tests.testapp.tasks import fail_quietly

pytestmark = pytest.mark.django_db(databases="__all__")


def only(world):
    [message] = world.queue.messages
    return message


def successor(world):
    """The latest message, and in how many seconds it is due."""
    message = max(world.queue.messages, key=lambda message: message.sequence)
    return message, (message.eta or message.created) - message.created


def test_a_failure_is_left_to_cloud_tasks_until_the_last_attempt(world):
    tasks.fail_thrice.defer()

    assert world.deliver(only(world), retries=0) == 500
    assert world.deliver(only(world), retries=1) == 500
    assert not FailedTask.objects.exists()
    assert world.deliver(only(world), retries=2) == 200

    assert [c.is_last_attempt for c in tasks.contexts] == [False, False, True]
    assert FailedTask.objects.get().attempts == 3


def test_attempts_can_be_chosen_for_a_call(world):
    tasks.fail_thrice.using(max_attempts=1).defer()

    assert world.deliver(only(world)) == 200
    assert FailedTask.objects.exists()


def test_without_a_number_of_its_own_a_task_has_the_queues(world, configure):
    configure(QUEUES={"default": {"max_attempts": 2}})
    tasks.fail_by_function.using(backoff=None).defer()
    tasks.remember.defer("x")
    world.deliver_all()

    context, _ = tasks.contexts[-1]
    assert context.max_attempts == 2


def test_what_is_tried_again_elsewhere_is_not_lost_but_given_its_last_chances(world):
    tasks.fail_unless_mended.defer("a")
    message = only(world)
    tasks.mended.append(True)

    assert world.deliver(message, retries=1 + KILLED_ATTEMPTS) == 200

    assert Author.objects.count() == 1


def test_a_call_whose_attempts_were_all_killed_is_kept_and_not_run(world):
    tasks.remember.using(max_attempts=2).defer("x")
    message = only(world)
    for late in range(KILLED_ATTEMPTS):
        with (
            failpoints.at("execute.before_call", failpoints.crash),
            pytest.raises(Crashed),
        ):
            world.deliver(message, retries=2 + late)

    assert world.deliver(message, retries=2 + KILLED_ATTEMPTS) == 200

    assert tasks.contexts == []
    failed = FailedTask.objects.get()
    assert "killed" in failed.error
    assert failed.attempts == 3 + KILLED_ATTEMPTS


def test_a_call_that_met_nobody_for_all_its_attempts_is_run(world):
    """During an outage, Cloud Tasks counts each try, even if no server answered."""
    tasks.remember.using(max_attempts=1).defer("x")

    assert world.deliver(only(world), retries=50) == 200

    [(context, _)] = tasks.contexts
    assert context.attempt == 51
    assert not FailedTask.objects.exists()


def test_a_successor_at_once_does_not_expire_with_the_first(world):
    """The first was enqueued longer ago than an envelope lives."""
    tasks.remember.defer("x")
    message = replace(only(world), created=only(world).created - 10**8)

    later = message.successor(now=clock.now(), delay=timedelta(0), attempts=1)

    opened = envelope.unseal(envelope.seal(later), now=clock.now() + 60)
    assert opened.attempts == 1


@dataclass
class Unset:
    later: int = field(init=False)


HARD_TO_SHOW = {
    "a number of thousands of digits": 10**5000,
    "a key of thousands of digits": {10**5000: 1},
    "a value that is not set": Unset(),
}


@pytest.mark.parametrize("name", HARD_TO_SHOW)
def test_what_can_not_be_shown_is_kept_all_the_same(name):
    definition = registry.find(tasks.remember.path)
    message = make_message(definition, definition.options, ("x",), {})
    with patch.object(codec, "loads_call", lambda _: ((HARD_TO_SHOW[name],), {})):
        text = failed.described(message, definition)

    assert text.startswith("value=")


def test_a_backoff_is_sent_with_the_task_unless_a_setting_is_off(world, configure):
    tasks.fail_slowly.defer()
    assert world.deliver(only(world)) == 500
    assert len(world.queue.messages) == 1

    configure(RETRY_CONFIG=False)
    tasks.fail_slowly.defer()
    assert world.deliver(only(world)) == 200

    message, delay = successor(world)
    assert message.attempts == 1
    assert delay == pytest.approx(10, abs=3)


def test_delays_grow_from_successor_to_successor(world, configure):
    configure(RETRY_CONFIG=False)
    tasks.fail_slowly.using(max_attempts=4).defer()
    delays, message = [], only(world)
    for _ in range(3):
        assert world.deliver(message) == 200
        message, _ = successor(world)
        delays.append(round(message.eta - message.created, -1))
    assert delays == [10, 20, 40]
    assert not FailedTask.objects.exists()

    assert world.deliver(message) == 200

    assert FailedTask.objects.get().attempts == 4
    assert [c.attempt for c in tasks.contexts] == [1, 2, 3, 4]


def test_a_backoff_function_chooses_each_delay(world):
    tasks.fail_by_function.defer()
    message = only(world)
    for attempt in (1, 2, 3):
        assert world.deliver(message) == 200
        message, delay = successor(world)
        assert delay == pytest.approx(7 * attempt, abs=3)


def test_a_backoff_function_can_give_up(world):
    tasks.fail_by_function.defer("KeyError")

    assert world.deliver(only(world)) == 200

    assert FailedTask.objects.get().attempts == 1


def test_a_backoff_function_of_a_call_travels_with_its_successors(world, configure):
    configure(TRUSTED_MODULES=["tests.durability"])
    tasks.fail_slowly.using(backoff=tasks.sevenfold).defer()
    message = only(world)
    for attempt in (1, 2):
        assert world.deliver(message) == 200
        message, delay = successor(world)
        assert delay == pytest.approx(7 * attempt, abs=3)


def test_a_backoff_value_of_a_call_travels_with_its_successors(world, configure):
    configure(RETRY_CONFIG=False)
    backoff = Backoff(min=timedelta(seconds=30), max=timedelta(seconds=40))
    tasks.fail_slowly.using(backoff=backoff).defer()
    message = only(world)
    for expected in (30, 40, 40):
        assert world.deliver(message) == 200
        message, delay = successor(world)
        assert delay == pytest.approx(expected, abs=3)


def test_a_broken_backoff_function_leaves_the_delay_to_cloud_tasks(world, caplog):
    tasks.fail_with_broken_backoff.defer()

    assert world.deliver(only(world)) == 500
    assert "the backoff itself is broken" in caplog.text

    assert world.deliver(only(world), retries=1) == 200
    assert "oh" in FailedTask.objects.get().error


@pytest.mark.parametrize("delay", ["soon", float("nan"), float("inf")])
def test_a_delay_that_is_none_is_a_failure_of_the_task(world, caplog, delay):
    tasks.ask_for.defer(delay)

    assert world.deliver(only(world)) == 500
    assert len(world.queue.messages) == 1
    assert "The delay of Retry" in caplog.text


def test_a_retry_makes_its_successor_before_it_is_acknowledged(world, caplog):
    tasks.after_a_retry.using(headers={"X": "1"}, queue="slow").defer("a")
    with caplog.at_level(logging.ERROR, "cloudtask"):
        assert world.deliver(only(world)) == 200

    message, _ = successor(world)
    assert message.options.headers == {"X": "1"}
    assert message.queue == "slow"
    assert [r for r in caplog.records if r.levelno > logging.WARNING] == []
    assert world.deliver(message) == 200
    assert Author.objects.count() == 1


def test_a_retry_that_can_not_be_enqueued_is_not_acknowledged(world):
    tasks.after_a_retry.defer("a")
    message = only(world)
    world.queue.is_down = True
    assert world.deliver(message) == 500
    world.queue.is_down = False

    assert world.deliver(message, retries=1) == 200

    assert Author.objects.count() == 1


@pytest.mark.parametrize("point", ["execute.after_successor", "execute.settled"])
def test_a_redelivery_after_a_crash_makes_no_second_successor(world, point):
    tasks.ask_for.defer(60)
    message = only(world)
    with failpoints.at(point, failpoints.crash), pytest.raises(Crashed):
        world.deliver(message)

    assert world.deliver(message, retries=1) == 200

    assert len(world.queue.messages) == 2


def test_the_delay_of_a_retry_is_kept(world):
    tasks.ask_for.defer(timedelta(hours=1))
    world.deliver(only(world))

    assert successor(world)[1] == pytest.approx(3600, abs=3)


def test_a_retry_beyond_what_the_service_takes_is_early_and_says_so(world, caplog):
    tasks.ask_for.defer(timedelta(days=60))

    assert world.deliver(only(world)) == 200

    assert successor(world)[1] == pytest.approx(30 * 24 * 3600, abs=3)
    assert "30 days" in caplog.text


def test_retries_count_as_attempts_and_end(world):
    tasks.ask_for.using(max_attempts=2).defer(0)
    assert world.deliver(only(world)) == 200
    message, _ = successor(world)

    assert world.deliver(message) == 200

    assert len(world.queue.messages) == 2
    assert FailedTask.objects.get().attempts == 2


def test_a_singular_failure_is_no_error(world, caplog):
    fail_quietly.defer()
    with caplog.at_level(logging.INFO, "cloudtask"):
        assert world.deliver(only(world)) == 500

    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_a_last_failure_is_kept_although_the_connection_was_lost(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has no server that could close a connection")
    tasks.lose_the_connection.defer()

    assert world.deliver(only(world)) == 200

    assert "and fail" in FailedTask.objects.get().error


def test_remains_are_removed_although_the_connection_was_lost(world, configure):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has no server that could close a connection")
    configure(MAX_TASK_SIZE=5000)
    tasks.lose_the_connection_and_return.defer(list(range(5000)))
    assert PayloadChunk.objects.exists()

    assert world.deliver(only(world)) == 200

    assert not PayloadChunk.objects.exists()


def test_a_task_that_stays_unknown_is_kept_when_the_queue_would_drop_it(
    world, configure
):
    configure(QUEUES={"default": {"max_attempts": 4}})
    tasks.remember.defer("x")
    message = only(world)
    unknown = replace(message, task="tests.durability.tasks.was_removed")
    assert world.deliver(unknown, retries=2) == 404
    assert world.deliver(unknown, retries=3) == 200

    failed = FailedTask.objects.get()
    assert failed.task == "tests.durability.tasks.was_removed"
    assert "TaskNotFound" in failed.error


def test_an_atomic_task_that_is_retried_leaves_one_effect(world):
    tasks.once_after_a_retry.defer("a")
    first = only(world)
    assert world.deliver(first) == 200
    assert not Author.objects.exists()
    assert not Execution.objects.exists()
    second, _ = successor(world)

    assert world.deliver(second) == 200
    assert world.deliver(first, retries=1) == 200
    assert world.deliver(second, retries=1) == 200

    assert Author.objects.count() == 1


def test_a_task_that_awaits_what_was_cancelled_has_failed(world):
    tasks.cancel_itself.defer()

    assert world.deliver(only(world)) == 200

    failed = FailedTask.objects.get()
    assert failed.error.endswith("CancelledError")
    assert "CancelledError" in failed.traceback
