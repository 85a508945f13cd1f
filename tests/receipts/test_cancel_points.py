"""A cancel at each point between defer() and the end of a call: its answer holds.

Each case cancels one call by its id at one point, and looks for it there. -s prints the
table of cases and outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction

from cloudtask import Cancellation, cancel, chain, failpoints
from cloudtask.inspect import CallState, find
from cloudtask.inspect.cancelling import NotCancellable
from cloudtask.models import OutboxMessage
from cloudtask.sending import on_commit, relay
from cloudtask.testing import crash_at, run_queued
from cloudtask.transports import memory
from tests.receipts import tasks
from tests.support import clock
from tests.testapp.models import Author

pytestmark = [
    pytest.mark.django_db(databases=["default", "other"]),
    pytest.mark.usefixtures("commits"),
]

PREVENTED, TOO_LATE, REQUESTED = Cancellation

DEFERRING = ("outbox.added", "outbox.committed", "outbox.sent")
RELAYING = ("relay.claimed", "relay.before_send", "relay.after_send")
EXECUTING = (
    *("execute.received", "execute.before_call", "execute.before_commit"),
    *("execute.after_call", "execute.before_settle", "execute.settled"),
)
KINDS: dict[str, Callable[[], Any]] = {
    "cancellable": lambda: tasks.stoppable.using(transactional=True).defer(),
    "atomic": lambda: tasks.write.using(transactional=True).defer("a"),
    "chain": lambda: (
        chain(tasks.counted.si()).using(cancellable=True, transactional=True).defer()
    ),
}


@dataclass
class CancelHere:
    """Looks for the only call that there is, and cancels it, once."""

    key: str = ""
    state: CallState | None = None
    answer: Cancellation | None = None
    seen: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        if self.state is not None:
            return
        self.state = find(self._key()).state
        with suppress(NotCancellable):
            self.answer = cancel(self._key())

    def _key(self) -> str:
        if not self.key:
            waiting = [one.key for one in on_commit.uncommitted("default")]
            rows = [*OutboxMessage.objects.values_list("pk", flat=True)]
            here = [entry.message.id for entry in memory.queue()]
            running = memory.queue().running
            now = [running.message.id] if running else []
            [self.key, *_] = [*now, *waiting, *rows, *here]
        return self.key


def has_run() -> bool:
    return bool(tasks.asked) or Author.objects.exists()


def run(kind: str, here: CancelHere, point: str) -> None:
    """Defer, relay and run one call; the cancel is at `point`."""
    if point in RELAYING:
        crashing = crash_at("outbox.committed")
        with suppress(failpoints.Crashed), crashing, transaction.atomic():
            KINDS[kind]()
    with failpoints.at(point, here):
        if point not in RELAYING:
            with transaction.atomic():
                KINDS[kind]()
        with clock.ahead(60.0):
            relay.relay("default")
        run_queued()


@pytest.mark.parametrize("point", [*DEFERRING, *RELAYING, *EXECUTING])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_of_a_cancel_holds_at_each_point(kind: str, point: str) -> None:
    here = CancelHere()
    run(kind, here, point)

    print(f"{kind:12} {point:24} {here.state} {here.answer} ran: {has_run()}")
    if here.state is None:
        assert (kind, point) in (
            ("cancellable", "execute.before_commit"),
            ("chain", "execute.before_commit"),
        )
        return
    if here.answer is PREVENTED:
        assert not has_run()
        assert find(here.key).state in (CallState.CANCELLED, CallState.UNKNOWN)
    if here.answer is TOO_LATE:
        assert has_run()
    if kind == "atomic" and here.answer is not None:
        assert has_run() is (here.answer is TOO_LATE)
    is_before = point in (*DEFERRING, *RELAYING, "execute.received")
    assert (here.answer is PREVENTED) or not is_before
