"""The signals of `django.tasks`, as other backends send them."""

from __future__ import annotations

import sys

import pytest

from cloudtask.backend import CloudTasksBackend
from cloudtask.backend.library import (
    TaskResultStatus,
    task_enqueued,
    task_finished,
    task_started,
)
from cloudtask.testing import run_queued
from tests.backend import tasks


class Heard(list):
    """Signals that were sent, with sender, status, and the exception being handled."""

    def receiver(self, name):
        def receive(sender, task_result, **kwargs):
            self.append((name, sender, task_result.status, sys.exc_info()[0]))

        return receive


@pytest.fixture
def heard():
    heard = Heard()
    signals = {
        "enqueued": task_enqueued,
        "started": task_started,
        "finished": task_finished,
    }
    receivers = {name: heard.receiver(name) for name in signals}
    for name, signal in signals.items():
        signal.connect(receivers[name])
    yield heard
    for name, signal in signals.items():
        signal.disconnect(receivers[name])


def test_a_task_that_succeeds_is_enqueued_started_and_finished(heard):
    tasks.note.enqueue()
    run_queued()
    assert heard == [
        ("enqueued", CloudTasksBackend, TaskResultStatus.READY, None),
        ("started", CloudTasksBackend, TaskResultStatus.RUNNING, None),
        ("finished", CloudTasksBackend, TaskResultStatus.SUCCESSFUL, None),
    ]


def test_a_task_that_fails_is_finished_once_while_its_exception_is_handled(db, heard):
    tasks.fail_until.using(max_attempts=2).enqueue(99)
    run_queued(errors="retry")
    assert [name for name, *_ in heard] == [
        "enqueued",
        "started",
        "started",
        "finished",
    ]
    assert heard[-1][2:] == (TaskResultStatus.FAILED, ValueError)


def test_an_atomic_task_that_fails_is_finished_the_same_way(db, heard):
    tasks.write_and_fail.using(max_attempts=1, atomic=True).enqueue("Ann")
    run_queued(errors="retry")
    assert heard[-1][2:] == (TaskResultStatus.FAILED, ValueError)
    assert [name for name, *_ in heard].count("finished") == 1


def test_a_task_that_is_tried_again_is_not_finished(db, heard):
    tasks.fail_until.enqueue(2)
    with pytest.raises(ValueError, match="not at attempt 1"):
        run_queued()
    assert "finished" not in [name for name, *_ in heard]


def test_a_receiver_that_raises_does_not_make_the_task_fail():
    def broken(**kwargs):
        raise ZeroDivisionError

    task_started.connect(broken)
    task_finished.connect(broken)
    try:
        tasks.note.enqueue()
        assert len(run_queued().ran) == 1
    finally:
        task_started.disconnect(broken)
        task_finished.disconnect(broken)
