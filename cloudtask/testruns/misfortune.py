"""Causes the faults of one run, and sends the calls that they left in an outbox."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial

from django.db import connections

from cloudtask import failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.failpoints import Crashed
from cloudtask.message import Message
from cloudtask.sending.relay import relay
from cloudtask.testruns import deliveries, queued_calls
from cloudtask.testruns.contents import contents, usable_aliases
from cloudtask.testruns.faults import CrashPoint, Faults, rival_inside
from cloudtask.testruns.report import Report, ReportedAttempt
from cloudtask.transports import memory
from cloudtask.transports.memory import MemoryQueue, Stage, Waiting

__tracebackhide__ = True  # pytest ends at the line of the test

REACHED = 6  # about as many failpoints as a delivery passes
LATE = 30.0  # seconds within which a second delivery follows
LISTED = 10  # faults that a message names
OVERTAKING = 8  # due calls of which any may be delivered first


class NotIdempotent(AssertionError):
    """A second delivery of a call that had succeeded changed the database."""


class InjectedFailure(EnqueueUnavailable):
    """Faults(enqueue_errors=) made an enqueue fail."""


class Misfortune:
    """Causes `faults` in one run. With `raises`, revealed problems raise errors."""

    def __init__(self, faults: Faults, *, raises: bool = False) -> None:
        self.faults = faults
        self.raises = raises
        self.is_to_blame = False  # whether a fault explains an error of this delivery
        self._random = random.Random(faults.seed)
        self._done: set[tuple[str, str]] = set()
        self._report = Report()
        self._refused_after: str | None = None

    @contextmanager
    def upon(self, report: Report) -> Iterator[None]:
        """Cause faults inside the block; its errors get a note with faults and seed."""
        self._report, queue = report, memory.queue()
        with ExitStack() as stack:
            if isinstance(self.faults.crash, CrashPoint):
                stack.enter_context(self.faults.crash.arm())
            if self.faults.enqueue_errors:
                queue.trouble = self._trouble
            try:
                yield
                self._check_reached()
            except Exception as error:
                error.add_note(f"cloudtask: {self.account()}")
                raise
            finally:
                queue.trouble = None
                queue.misfortunes.append(self.account())

    def _check_reached(self) -> None:
        """Raise if the run never reached the point at which it was to crash."""
        crash = self.faults.crash
        if self.raises and isinstance(crash, CrashPoint) and not crash.struck:
            raise crash.unreached()

    def account(self) -> str:
        """One line with the faults, the seed, and the faults that really happened."""
        struck = [line.partition("\n")[0] for line in self._report.struck]
        if len(struck) > LISTED:
            struck[LISTED:] = [f"... and {len(struck) - LISTED} more"]
        what = "; ".join(struck) or "nothing"
        return f"delivered with {self.faults!r}, which struck: {what}"

    def _strikes(self, fault: str, message: Message) -> bool:
        chance = getattr(self.faults, fault)
        if not chance or self._random.random() >= chance:
            return False
        if (fault, message.key) in self._done:
            return False
        self._done.add((fault, message.key))
        return True

    def _note(self, fault: str, message: Message) -> None:
        self._report.struck.append(f"{fault} of {message.task} ({message.id})")

    def pick(self, queue: MemoryQueue, now: float) -> Waiting | None:
        """The next delivery: the first that is due, or one that overtakes it."""
        first = queue.pop()
        if first is None or self._random.random() >= self.faults.reorder:
            return first
        due = [first]
        while len(due) < OVERTAKING and (entry := queue.pop()) is not None:
            if entry.due > max(now, first.due):
                queue.put_back([entry])
                break
            due.append(entry)
        chosen = self._random.choice(due)
        queue.put_back(entry for entry in due if entry is not chosen)
        if chosen is not first:
            self._note("reorder", chosen.message)
        return chosen

    def deliver(
        self, entry: Waiting, attempt: Callable[[Waiting], ReportedAttempt]
    ) -> list[tuple[Waiting, ReportedAttempt]]:
        """Deliver `entry` by `attempt`, and a concurrent delivery if there is one."""
        self.is_to_blame = False
        rivals: list[tuple[Waiting, ReportedAttempt]] = []
        with ExitStack() as stack:
            if entry.fault is None and self._strikes("concurrent", entry.message):
                self._note("concurrent", entry.message)
                rival = entry.again(entry.due, entry.delivery, "concurrent")

                def arrive() -> None:
                    rivals.append((rival, attempt(rival)))

                stack.enter_context(rival_inside(self._random, arrive))
            stack.enter_context(self._crashing(entry))
            ran = self._compared(entry, attempt)
        for delivered, its_ran in [*rivals, (entry, ran)]:
            its_ran.fault = delivered.fault
        if isinstance(ran.error, Crashed):
            ran.fault = str(ran.error)
            self._note(ran.fault, entry.message)
        return [*rivals, (entry, ran)]

    @contextmanager
    def _crashing(self, entry: Waiting) -> Iterator[None]:
        """Crash at one of the failpoints that the delivery reaches."""
        by_chance = not isinstance(self.faults.crash, CrashPoint)
        if not by_chance or not self._strikes("crash", entry.message):
            yield
            return
        left = self._random.randint(1, REACHED)

        def count(point: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crashed(f"crashed at {point}")

        with ExitStack() as stack:
            for point in sorted(failpoints.POINTS):
                stack.enter_context(failpoints.at(point, partial(count, point)))
            yield

    def _compared(
        self, entry: Waiting, attempt: Callable[[Waiting], ReportedAttempt]
    ) -> ReportedAttempt:
        """Deliver `entry`; if its call succeeded before, check that nothing changes."""
        if entry.fault not in ("duplicate", "lose_ack"):
            return attempt(entry)
        before = contents(usable_aliases())
        ran = attempt(entry)
        changes = before.differences(contents(usable_aliases()))
        if changes and ran.error is None:
            self._complain(entry, changes)
        return ran

    def _complain(self, entry: Waiting, changes: list[str]) -> None:
        found = (
            f"{entry.message.task} ({entry.message.id}) is not idempotent: after it "
            f"had succeeded, a second delivery ({entry.fault}) changed the database, "
            f"with {self.faults!r}:\n  " + "\n  ".join(changes)
        )
        self._report.struck.append(found)
        if self.raises:
            raise NotIdempotent(found)

    def after(self, entry: Waiting, now: float) -> list[Waiting]:
        """The further deliveries after a successful one."""
        if entry.fault is not None:
            return []
        more: list[Waiting] = []
        if self._strikes("duplicate", entry.message):
            self._note("duplicate", entry.message)
            due = now + self._random.uniform(0.0, LATE)
            more.append(entry.again(due, entry.delivery, "duplicate"))
        if self._strikes("lose_ack", entry.message):
            self._note("lose_ack", entry.message)
            due = now + deliveries.delay(entry.message, entry.delivery.retries + 1)
            delivery = deliveries.next_delivery(entry.delivery, due)
            more.append(entry.again(due, delivery, "lose_ack"))
        return more

    def _trouble(self, message: Message, stage: Stage) -> None:
        """Make the queue fail before or after it accepts the call."""
        if stage == "before":
            self._refused_after = None
            if not self._strikes("enqueue_errors", message):
                return
            self._note("enqueue_errors", message)
            if self._random.random() < 0.5:
                self._refused_after = message.key
                return
        elif self._refused_after != message.key:
            return

        self.is_to_blame = True
        memory.queue().is_disturbed = True
        raise InjectedFailure(
            f"Task {message.task} ({message.id}) was not enqueued on queue "
            f"{message.queue!r}: {self.faults!r} had the service fail."
        )


NOT_NOW = timedelta(hours=12)  # a relay takes what is put off by more than a day
TRIES = 10  # relays of an alias at most: some of them may crash


def sweep(queue: MemoryQueue) -> bool:
    """Send the calls that crashes and failures have left in an outbox.

    In production the relay does so later. Calls of setUpTestData stay in the outbox.
    Returns whether anything was sent.
    """
    queue.is_disturbed = False
    before = queue.pushed
    for alias in usable_aliases():
        if _has_outbox(alias):
            _relay(alias, queue)
    return queue.pushed > before


def _has_outbox(alias: str) -> bool:
    from cloudtask.models import OutboxMessage

    tables = connections[alias].introspection.table_names()
    return OutboxMessage._meta.db_table in tables


def _relay(alias: str, queue: MemoryQueue) -> None:
    from cloudtask.models import OutboxMessage

    rows = OutboxMessage.objects.using(alias)
    unsent = rows.filter(state=OutboxMessage.State.WAITING)
    if left_alone := queued_calls.keys_of_no_test():
        # It is not enough to exclude them: in virtual time they may be due.
        unsent.filter(key__in=left_alone).update(due_at=database_now() + NOT_NOW)
    for _ in range(TRIES):
        ours = unsent.exclude(key__in=left_alone)
        if not ours.update(due_at=database_now() - timedelta(seconds=1)):
            return
        try:
            relay(alias)
        except Crashed:
            queue.is_disturbed = True
