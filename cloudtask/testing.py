"""Runs queued tasks in tests, and asserts on them.

In Django's test environment tasks stay in this process, but every call is encoded and
decoded as in production: a value that can't travel fails the test. See
docs/howto/testing.md.
"""

from cloudtask.testruns.assertions import (
    assert_enqueued,
    assert_idempotent,
    assert_not_enqueued,
    enqueues,
    enqueues_nothing,
    queued,
)
from cloudtask.testruns.deliveries import Undelivered
from cloudtask.testruns.djangae import (
    TaskFailedBehaviour,
    TaskFailedError,
    TestCaseMixin,
)
from cloudtask.testruns.faults import CrashPoint, Faults, crash_at
from cloudtask.testruns.misfortune import NotIdempotent
from cloudtask.testruns.mixin import CloudTaskTestMixin, TasksLeft
from cloudtask.testruns.queue_run import EndlessTasks
from cloudtask.testruns.queued_calls import QueuedTask
from cloudtask.testruns.report import (
    Parked,
    Report,
    ReportedAttempt,
    ReportedIteration,
)
from cloudtask.testruns.runners import arun_queued, eager, run_queued

__all__ = [
    "CloudTaskTestMixin",
    "CrashPoint",
    "EndlessTasks",
    "Faults",
    "NotIdempotent",
    "Parked",
    "QueuedTask",
    "Report",
    "ReportedAttempt",
    "ReportedIteration",
    "TaskFailedBehaviour",
    "TaskFailedError",
    "TasksLeft",
    "TestCaseMixin",
    "Undelivered",
    "arun_queued",
    "assert_enqueued",
    "assert_idempotent",
    "assert_not_enqueued",
    "crash_at",
    "eager",
    "enqueues",
    "enqueues_nothing",
    "queued",
    "run_queued",
]
