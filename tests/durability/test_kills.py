"""Processes killed by SIGKILL at every point between defer() and the function's end.

The queue is the emulator, the handler a server process; each case kills one process,
starts it again, relays, and asks the database what has happened. With -v the end of
the run has a table of cases and outcomes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections

from cloudtask import failpoints
from cloudtask.models import (
    FailedTask,
    OutboxMessage,
    PayloadChunk,
    UniqueKey,
)
from tests.durability.sites import KILLED
from tests.testapp.models import Author

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.exhaustive(sample=4),
]


@dataclass(frozen=True)
class Case:
    """The failpoint at which a process is killed, and the call that it handles."""

    point: str
    task: str = "plain"
    is_large: bool = False

    def __str__(self) -> str:
        return f"{self.point}-{self.task}{'-large' if self.is_large else ''}"


def cases(*points: str, tasks: tuple[str, ...] = ("plain", "once")) -> list[Case]:
    return [
        Case(point, task, is_large=point.startswith("store."))
        for point in points
        for task in tasks
    ]


DEFERRING = [
    *cases("outbox.added", "outbox.committed", "outbox.sent"),
    *cases("store.before_save", "store.after_save"),
    *cases("unique.claimed", "outbox.added", "outbox.committed", tasks=("single",)),
    Case("outbox.committed", "once", is_large=True),
]
AT_ONCE = cases("enqueue.before_send", "enqueue.after_send")
RELAYING = [
    *cases("relay.claimed", "relay.before_send", "relay.after_send"),
    Case("relay.after_send", "once", is_large=True),
]
EXECUTING = [
    *cases("execute.received", "execute.before_call", "execute.after_call"),
    *cases("execute.before_settle", "execute.settled"),
    *cases("execute.before_commit", tasks=("once", "once_awaited")),
    *cases("store.before_load", "store.before_finish", "store.after_finish"),
    *cases(
        "execute.before_successor",
        "execute.after_successor",
        tasks=("after_a_retry", "once_after_a_retry"),
    ),
    *cases("execute.before_call", tasks=("single",)),
]
FAILING = cases("failures.before_save", "failures.after_save", tasks=("fail_once",))
ON_THE_WAY = (
    "enqueue.",
    "outbox.",
    "unique.",
    "relay.",
    "store.",
    "execute.",
    "failures.",
)


@pytest.fixture
def outcome(record_property: Any, request: Any) -> Any:
    """Notes what came of a case, for the table."""
    kind = connections["default"].vendor

    def note(case: Case, text: str) -> None:
        record_property("kill", (kind, str(case), text))

    return note


def causes() -> int:
    return Author.objects.filter(name__startswith="cause of").count()


def effects() -> int:
    return Author.objects.exclude(name__startswith="cause of").count()


def assert_ran(case: Case) -> None:
    assert causes() == 1
    assert effects() == 1 if case.task.startswith("once") else effects() >= 1
    assert not OutboxMessage.objects.exists()
    assert not UniqueKey.objects.exists()
    assert not PayloadChunk.objects.exists()
    assert not FailedTask.objects.exists()


def test_every_failpoint_on_the_way_of_a_call_has_a_case():
    tested = {c.point for c in DEFERRING + AT_ONCE + RELAYING + EXECUTING + FAILING}

    assert tested == {p for p in failpoints.POINTS if p.startswith(ON_THE_WAY)}


@pytest.mark.parametrize("case", DEFERRING, ids=str)
def test_a_process_killed_while_it_defers_loses_no_committed_task(site, case, outcome):
    code = site.run("defer", case.task, "a", point=case.point, is_large=case.is_large)
    assert code == KILLED
    is_committed = causes() == 1
    assert is_committed == case.point.endswith(("committed", "sent"))

    site.settle()

    if is_committed:
        assert_ran(case)
        outcome(case, f"committed; ran, effects: {effects()}")
    else:
        assert (causes(), effects()) == (0, 0)
        assert not OutboxMessage.objects.exists()
        assert not UniqueKey.objects.exists()
        outcome(case, "not committed; never ran")


@pytest.mark.parametrize("case", AT_ONCE, ids=str)
def test_a_process_killed_in_a_defer_without_transaction(site, case, outcome):
    """Nothing was promised before defer() returned; what was sent runs."""
    assert site.run("defer_at_once", case.task, "a", point=case.point, is_large=False)

    site.settle()

    was_sent = case.point == "enqueue.after_send"
    assert effects() == was_sent
    outcome(case, "sent; ran once" if was_sent else "not sent; never ran")


@pytest.mark.parametrize("case", RELAYING, ids=str)
def test_a_relay_that_is_killed_loses_nothing(site, case, outcome):
    site.run("defer", case.task, "a", point="outbox.committed", is_large=case.is_large)
    assert site.run("relay", 1.0, point=case.point) == KILLED
    assert OutboxMessage.objects.exists()

    site.settle()

    assert_ran(case)
    outcome(case, f"ran, effects: {effects()}")


@pytest.mark.parametrize("case", EXECUTING, ids=str)
def test_a_handler_that_is_killed_is_tried_again(site, case, outcome):
    site.serve(case.point)
    site.run("defer", case.task, "a", is_large=case.is_large)
    site.server_dies()

    site.settle()

    assert_ran(case)
    outcome(case, f"ran, effects: {effects()}")


@pytest.mark.parametrize("case", FAILING, ids=str)
def test_a_handler_that_is_killed_over_a_failed_task_keeps_it(site, case, outcome):
    site.serve(case.point)
    site.run("defer", case.task, "a", is_large=False)
    site.server_dies()

    site.settle()

    assert FailedTask.objects.count() == 1
    outcome(case, "kept as failed")


@pytest.mark.parametrize("task", ["plain", "once", "single", "small"])
@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_a_transaction_that_was_rolled_back_never_ran_a_task(
    site, task, is_large, outcome
):
    if task == "small" and is_large:
        is_large = False
    assert site.run("defer_and_roll_back", task, "a", is_large=is_large) == 0

    site.settle()

    assert (causes(), effects()) == (0, 0)
    assert not PayloadChunk.objects.exists()
    outcome(Case("rolled back", task, is_large), "never ran")


def test_the_environment_names_the_point_at_which_a_process_dies():
    code = (
        "from cloudtask import failpoints; failpoints.reached('outbox.sent'); "
        "failpoints.reached('outbox.added'); print('alive')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CLOUDTASK_FAILPOINT": "outbox.added=kill"},
        capture_output=True,
        text=True,
    )

    assert (ended.returncode, ended.stdout) == (KILLED, "")
