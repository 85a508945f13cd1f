"""Every task_started has its task_finished, however the delivery ends."""

from __future__ import annotations

import logging

import pytest

from cloudtask import Retry, SingularTaskFailure, failpoints, signals, task
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.stores.database import DatabaseStore
from cloudtask.testing import run_queued

pytestmark = pytest.mark.django_db(databases="__all__")


ERRORS = {
    "none": None,
    "error": ValueError("broken"),
    "retry": Retry(delay=1),
    "singular": SingularTaskFailure("later"),
    "exit": SystemExit(3),
}


@task(max_attempts=2)
def end(how: str) -> None:
    error = ERRORS[how]
    if error is not None:
        raise error


@pytest.fixture
def sent():
    """What the signals of deliveries were sent with."""
    found = []

    def started(context, **kwargs):
        found.append(("started", context.attempt))

    def finished(context, outcome, error, **kwargs):
        found.append(("finished", context.attempt, outcome.value, type(error)))

    signals.task_started.connect(started)
    signals.task_finished.connect(finished)
    yield found
    signals.task_started.disconnect(started)
    signals.task_finished.disconnect(finished)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("none", "succeeded"),
        ("error", "failed"),
        ("retry", "retried"),
        ("singular", "postponed"),
        ("exit", "failed"),
    ],
)
def test_an_attempt_is_finished_with_its_outcome(world, sent, how, outcome):
    end.defer(how)
    world.deliver(world.queue.messages[0])
    assert sent == [("started", 1), ("finished", 1, outcome, type(ERRORS[how]))]


def test_a_delivery_that_finds_no_store_is_finished_unsettled(world, sent, monkeypatch):
    end.defer("error")

    def unavailable(self, failed):
        raise EnqueueUnavailable("The store is down.")

    monkeypatch.setattr(DatabaseStore, "save_failed", unavailable)
    assert world.deliver(world.queue.messages[0], retries=1) == 500
    assert sent == [
        ("started", 2),
        ("finished", 2, "unsettled", EnqueueUnavailable),
    ]


def test_an_interrupt_finishes_the_delivery_unsettled(world, sent):
    end.defer("none")

    def interrupt():
        raise KeyboardInterrupt

    with (
        failpoints.at("execute.before_settle", interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        world.deliver(world.queue.messages[0])
    assert sent == [("started", 1), ("finished", 1, "unsettled", KeyboardInterrupt)]


def test_a_call_that_was_killed_too_often_is_started_and_finished(world, sent):
    end.defer("none")
    message = world.queue.messages[0]
    for retries in range(2, 6):
        world.deliver(message, retries=retries)
    assert sent[-2][0] == "started"
    assert sent[-1][:3] == ("finished", 6, "exhausted")


def test_receivers_that_fail_change_nothing(world, sent):
    def broken(**kwargs):
        raise RuntimeError("of the receiver")

    signals.task_started.connect(broken)
    signals.task_finished.connect(broken)
    try:
        end.defer("none")
        assert world.deliver(world.queue.messages[0]) == 200
    finally:
        signals.task_started.disconnect(broken)
        signals.task_finished.disconnect(broken)
    assert len(sent) == 2


def test_a_failure_that_run_queued_raises_is_finished_too(sent):
    end.defer("error")
    with pytest.raises(ValueError, match="broken"):
        run_queued()
    assert sent == [("started", 1), ("finished", 1, "failed", ValueError)]


def test_a_receiver_that_exits_still_lets_the_delivery_finish(world, sent):
    def exits(**kwargs):
        raise SystemExit(3)

    end.defer("none")
    signals.task_started.connect(exits)
    try:
        with pytest.raises(SystemExit):
            world.deliver(world.queue.messages[0])
    finally:
        signals.task_started.disconnect(exits)
    assert sent == [("started", 1), ("finished", 1, "unsettled", SystemExit)]


# The line in the log


def test_a_line_for_each_delivery_names_the_call_and_its_outcome(world, caplog):
    caplog.set_level(logging.INFO, "cloudtask.run")
    end.defer("error")
    message = world.queue.messages[0]
    world.deliver(message)
    [record] = [one for one in caplog.records if one.name == "cloudtask.run"]
    assert record.levelname == "INFO"
    assert f"{end.path} ({message.id}) on queue 'default', attempt 1: failed" in (
        record.getMessage()
    )
    assert (record.task, record.task_id, record.queue) == (
        end.path,
        message.id,
        "default",
    )
    assert (record.attempt, record.outcome) == (1, "failed")
    assert record.seconds >= 0


def test_a_setting_turns_the_line_off(world, configure, caplog):
    configure(LOG_RUNS=False)
    caplog.set_level(logging.INFO, "cloudtask.run")
    end.defer("none")
    world.deliver(world.queue.messages[0])
    assert not [one for one in caplog.records if one.name == "cloudtask.run"]
