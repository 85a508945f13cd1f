"""Runs the queue once: delivers call after call in virtual time, and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from cloudtask import signals
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import Retry, SingularTaskFailure
from cloudtask.failpoints import Crashed
from cloudtask.iteration.finalizing import GivenUp
from cloudtask.iteration.steps import STEPS
from cloudtask.message import Delivery, Message
from cloudtask.stores import AlreadyDone
from cloudtask.testruns import deliveries, queued_calls
from cloudtask.testruns.deliveries import Http
from cloudtask.testruns.misfortune import InjectedFailure, Misfortune, sweep
from cloudtask.testruns.report import Iterations, Parked, Report, ReportedAttempt
from cloudtask.testruns.virtual import VirtualClock, frozen
from cloudtask.transports import memory
from cloudtask.transports.memory import Waiting

__tracebackhide__ = True  # pytest ends at the line of the test

Errors = Literal["raise", "retry", "collect"]
Wanted = Callable[[Message], bool]


class QueueRun:
    """One call of `run_queued`."""

    def __init__(
        self,
        *,
        wanted: Wanted | None = None,
        limit: int = 1000,
        errors: Errors = "raise",
        recursive: bool = True,
        http: Http | None = None,
        misfortune: Misfortune | None = None,
    ) -> None:
        self.wanted = wanted
        self.limit = limit
        self.errors = errors
        self.recursive = recursive
        self.http = http
        self.misfortune = misfortune
        self.queue = memory.queue()
        self.clock = VirtualClock()
        self.stop_at = float("inf")
        self.before: Callable[[], None] | None = None
        self.report = Report(misfortune and misfortune.faults)
        self.newest = 0
        self.enqueued = 0
        self.skipped: list[Waiting] = []
        self.iterations = Iterations()
        # State of the current delivery: its iteration, the errors of its rows, and the
        # error to raise after it.
        self.iteration: str | None = None
        self.row_errors: list[BaseException] = []
        self.row_error: BaseException | None = None

    def to_the_end(self, *, freeze: bool = False) -> Report:
        """Deliver all due calls until none is left, and report."""
        with ExitStack() as stack:
            self.clock.start()
            stack.callback(self.clock.release)
            if freeze:
                stack.enter_context(frozen(self.clock))
            if self.misfortune is not None:
                stack.enter_context(self.misfortune.upon(self.report))
            self._flush()
            self._tell_refused()
            if self.before is not None:
                self.before()
            self.newest = self.queue.pushed
            with self._deliveries():
                self._drain()
                # Calls that a sweep sends may fail to enqueue others, and leave rows.
                swept = self.queue.is_disturbed
                while swept and (swept := sweep(self.queue)):
                    self._drain()
        self._tell_refused()
        self.report.left = queued_calls.snapshot()
        self.report.iterations = self.iterations.all()
        self.report.rows = self.iterations.failed_rows()
        return self.report

    def at_once(self, ids: set[str]) -> None:
        """Deliver only these calls, at any eta, and the steps of their iterations."""
        with ExitStack() as stack:
            self.clock.start()
            stack.callback(self.clock.release)
            stack.callback(self.queue.take, ids)  # remove the calls that failed
            self._tell_refused()
            stack.enter_context(self._deliveries())
            while entries := self.queue.take(ids):
                for entry in entries:
                    try:
                        self._deliver(entry)
                    finally:
                        ids |= self._steps_after(entry)

    def _steps_after(self, entry: Waiting) -> set[str]:
        """The steps that a step has enqueued; no listener gets them.

        A step is one of an iteration, or of a chain.
        """
        is_step, in_chain = entry.message.task in STEPS, entry.message.chain is not None
        if not is_step and not in_chain:
            return set()
        return {
            other.message.id
            for other in self.queue
            if other.parent is entry
            and ((is_step and other.message.task in STEPS) or in_chain)
        }

    @contextmanager
    def _deliveries(self) -> Iterator[None]:
        """Prepare for deliveries; afterwards restore the state of an enclosing run."""
        outer = self.queue.running
        signals.row_failed.connect(self._note_row, weak=False)
        try:
            yield
        finally:
            signals.row_failed.disconnect(self._note_row)
            self.queue.running = outer
            self.queue.put_back(self.skipped)
            self.skipped = []

    def _drain(self) -> None:
        while (entry := self._next()) is not None:
            if entry.due > self.stop_at:
                self.skipped.append(entry)
                return
            if self._may_run(entry):
                self._deliver(entry)
            else:
                self.skipped.append(entry)

    def _next(self) -> Waiting | None:
        if self.misfortune is not None:
            return self.misfortune.pick(self.queue, self.clock.time)
        return self.queue.pop()

    def _may_run(self, entry: Waiting) -> bool:
        if self.wanted is not None and not self.wanted(entry.message):
            return False
        if entry.order <= self.newest or entry.delivery.retries or entry.fault:
            return True
        if self.recursive and not entry.message.sequence and not _goes_on(entry):
            self.enqueued += 1
            if self.enqueued > self.limit:
                self.queue.put_back([entry])
                raise endless(entry, self.limit)
        return self.recursive

    def _deliver(self, entry: Waiting) -> None:
        self.clock.move_to(entry.due)
        self.queue.running = entry
        self.row_errors, self.row_error = [], None
        if self.misfortune is None:
            ran = self._attempt(entry)
            self._flush()
            self._settle(entry, ran)
        else:
            for delivered, ran in self.misfortune.deliver(entry, self._attempt):
                self._flush()
                self._settle(delivered, ran)
        if self.row_error is not None:
            raise self.row_error
        self._tell_refused()

    def _note_row(
        self, *, run: str, error: BaseException, on_error: str, **others: Any
    ) -> None:
        """Record the error of a row. The leg continues by its policy.

        If `errors` is "raise" and the policy is the default, the first such error is
        raised after the delivery.
        """
        if run != self.iteration:
            return  # it belongs to a run inside this one
        self.row_errors.append(error)
        if self.errors != "raise" or on_error != "retry" or isinstance(error, Retry):
            return
        by_fault = self.misfortune is not None and (
            self.misfortune.is_to_blame or isinstance(error, SingularTaskFailure)
        )
        if not by_fault and self.row_error is None:
            self.row_error = error

    def _attempt(self, entry: Waiting) -> ReportedAttempt:
        if entry.message.task not in STEPS:
            return self._delivered(entry)
        outer, self.iteration = self.iteration, self.iterations.before(entry.message)
        try:
            ran = self._delivered(entry)
        finally:
            self.iteration = outer
        if self.row_error is None:  # an error may have broken the test's transaction
            self.iterations.after(entry.message, self.clock.time, self.row_errors)
        return ran

    def _delivered(self, entry: Waiting) -> ReportedAttempt:
        now = self.clock.time
        try:
            if self.http is not None:
                return self.http.deliver(entry, now)
            return deliveries.deliver(
                entry, now, settles=self.errors == "retry", commit=queued_calls.flush
            )
        except Crashed as crashed:
            self.queue.is_disturbed = True
            return deliveries.unanswered(entry, now, crashed)

    def _flush(self) -> None:
        """Do what commits would do; after a crash the rest stays in the outbox."""
        while True:
            try:
                return queued_calls.flush()
            except Crashed as crashed:
                self.queue.is_disturbed = True
                self.report.struck.append(f"{crashed} in a commit")
            except InjectedFailure:
                # A small call has no outbox row, so this one is lost, as it may be.
                continue

    def _tell_refused(self) -> None:
        """Record the calls that committed, but whose name was taken.

        In a run without faults, the first of them raises as any other failure does.
        """
        refused = self.queue.take_refused()
        for message, error in refused:
            self.report.parked.append(Parked(queued_calls.call_of(message), error))
        if refused and self.errors == "raise" and self.misfortune is None:
            raise refused[0][1]

    def _settle(self, entry: Waiting, ran: ReportedAttempt) -> None:
        """Record `ran`, and queue the deliveries that the service would make next."""
        self.report.note(entry.message, ran)
        error = ran.error
        ran.is_retried = ran.outcome is Outcome.RETRIED
        asked = ran.is_retried and isinstance(error, Retry)  # any other error failed it
        if error is None or asked or isinstance(error, AlreadyDone):
            if self.misfortune is not None:
                self.queue.put_back(self.misfortune.after(entry, self.clock.time))
        elif self._is_to_be_retried(entry, ran):
            ran.is_retried = True
            due = self.clock.time + deliveries.delay(
                entry.message, entry.delivery.retries + 1
            )
            self.queue.put_back([entry.again(due, _after(entry, ran, due))])
        elif self.errors == "raise":
            if not ran.outcome.is_settled and not deliveries.is_last(
                entry.message, ran
            ):
                again = entry.again(entry.due, _after(entry, ran, entry.due))
                self.queue.put_back([again])
            # A row that breaks the test's transaction makes its leg fail as well.
            raise self.row_error or _own(error)
        elif self.errors == "collect" and not ran.outcome.is_settled:
            self._tell(entry, ran, _own(error))

    def _tell(self, entry: Waiting, ran: ReportedAttempt, error: BaseException) -> None:
        """Tell a chain of a failure, again after a crash as a redelivery would."""
        while True:
            try:
                return deliveries.tell(entry, ran, error)
            except Crashed as crashed:
                self.queue.is_disturbed = True
                self.report.struck.append(f"{crashed} of a failure")

    def _is_to_be_retried(self, entry: Waiting, ran: ReportedAttempt) -> bool:
        if ran.outcome.is_settled:
            return False
        if isinstance(ran.error, Crashed):
            return not deliveries.is_hopeless(entry.message, ran)
        passes = self.errors == "retry" or self._is_to_be_expected(entry, ran)
        return passes and not deliveries.is_last(entry.message, ran)

    def _is_to_be_expected(self, entry: Waiting, ran: ReportedAttempt) -> bool:
        """Whether the failure is not the task's own, and a retry may succeed."""
        if self.misfortune is not None and self.misfortune.is_to_blame:
            return True
        # A delivery fails so if another one, maybe crashed, still has the lease.
        is_meant = isinstance(ran.error, SingularTaskFailure)
        is_step = entry.message.task in STEPS
        return is_meant and (is_step or self.misfortune is not None)


def _own(error: BaseException) -> BaseException:
    """The error of a finalize after its last attempt; else `error` itself."""
    cause = error.__cause__ if isinstance(error, GivenUp) else None
    return cause or error


def _after(entry: Waiting, ran: ReportedAttempt, due: float) -> Delivery:
    answer = None if isinstance(ran.error, Crashed) else 500
    return deliveries.next_delivery(entry.delivery, due, answer)


def _goes_on(entry: Waiting) -> bool:
    """Whether `entry` is the next step of the chain that has sent it."""
    before = entry.parent.message.chain if entry.parent is not None else None
    return before is not None and entry.message.chain == before


SHOWN = 10  # tasks of a chain that an error text names


class EndlessTasks(AssertionError):
    """`run_queued` reached its limit: tasks keep enqueueing tasks."""


def endless(entry: Waiting, limit: int) -> EndlessTasks:
    """The error for the first call over the limit."""
    return EndlessTasks(
        f"Tasks enqueued more than {limit:,} calls while they ran, the last by this "
        f"chain: {chain_of(entry)}. If the chain does end, raise limit=."
    )


def chain_of(entry: Waiting) -> str:
    """The chain of calls that led to `entry`; a part that repeats is given once."""
    paths: list[str] = []
    link: Waiting | None = entry
    while link is not None:
        paths.append(link.message.task)
        link = link.parent
    paths.reverse()
    length = _period(paths)
    if length is not None:
        return " -> ".join([*paths[-length - 1 :], "..."])
    skipped = ["..."] if len(paths) > SHOWN else []
    return " -> ".join([*skipped, *paths[-SHOWN:]])


def _period(paths: list[str]) -> int | None:
    """The length of the shortest part that repeats at the end of `paths`."""
    last = len(paths) - 1
    for length in range(1, len(paths) // 2 + 1):
        if all(paths[last - n] == paths[last - n - length] for n in range(length)):
            return length
    return None
