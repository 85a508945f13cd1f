"""Reports one test run: its attempts, its iterations, and the calls still queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cloudtask import codec
from cloudtask.delivering.settling import Outcome
from cloudtask.discretion import said
from cloudtask.exceptions import EnqueueError
from cloudtask.iteration import Iteration
from cloudtask.iteration.failing import traceback_of
from cloudtask.message import Message
from cloudtask.runs import FailureState, IterationReport, RowFailure, RunState
from cloudtask.testruns import queued_calls
from cloudtask.testruns.named import named
from cloudtask.testruns.queued_calls import QueuedTask, Snapshot
from cloudtask.testruns.workflow_trees import ReportedWorkflow

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

LISTED = 10  # lines of a kind in a report


@dataclass(slots=True)
class ReportedAttempt:
    """One attempt that `run_queued` made. `time` is virtual, in unix seconds.

    `fault` names the fault that caused or changed this delivery. The `value` of the
    function is not known with via="http". For a row of an iteration, `row` is its key
    and `id` is the iteration's.
    """

    task: str
    id: str
    attempt: int
    time: float
    outcome: Outcome
    value: Any = None
    error: BaseException | None = None
    is_retried: bool = False
    fault: str | None = None
    row: str | None = None

    @property
    def at(self) -> datetime:
        """The virtual time of the attempt."""
        return datetime.fromtimestamp(self.time, UTC)

    def __str__(self) -> str:
        error = f": {said(self.error, repr)}" if self.error is not None else ""
        fault = f" [{self.fault}]" if self.fault else ""
        row = f" row {self.row}" if self.row is not None else ""
        return (
            f"{self.at:%Y-%m-%d %H:%M:%S} {self.task} ({self.id}){row} attempt "
            f"{self.attempt} {self.outcome.value}{error}{fault}"
        )


@dataclass(frozen=True, slots=True)
class ReportedIteration:
    """An iteration, as it was when its last step ended.

    `deliveries` counts its steps; `report` is from before its shards were deleted.
    `error` is the reason why it waits, is paused or has failed. `failures` are the rows
    that failed, paused the run, or were skipped after an error. Each has its error and
    traceback.
    """

    id: str
    task: str | None
    state: str
    deliveries: int
    report: IterationReport
    error: str = ""
    failures: tuple[RowFailure, ...] = ()

    def __str__(self) -> str:
        report = self.report
        error = f": {self.error}" if self.error else ""
        return (
            f"of {self.task}: {report.done} done, {report.failed} failed, "
            f"{report.skipped} skipped, {len(report.shards)} shards, "
            f"{self.deliveries} deliveries, {self.state}{error}"
        )


class Calls(Mapping[str, int]):
    """The number of attempts of each task, by task or path; 0 for any other."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._counts = Counter(paths)

    def __getitem__(self, task: str | Nameable) -> int:
        path = task if isinstance(task, str) else named(task).path
        return self._counts[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return repr(dict(self._counts))


@dataclass(frozen=True, slots=True)
class Parked:
    """A call that committed, and that the queue then refused with `error`."""

    call: QueuedTask
    error: EnqueueError

    def __str__(self) -> str:
        return f"{self.call}: {self.error}"


class Report:
    """The attempts of one `run_queued`, and the calls that are still queued.

    `workflows` has each chain and group, as a tree. `iterations` has each `.iterate()`
    of which a step was delivered, `rows` each row that failed for good. `parked` has
    the calls whose name was taken when they committed: they never run, and production
    parks their rows in the outbox. `faults` are the requested faults, `struck`
    describes those that happened.
    """

    def __init__(self, faults: object = None) -> None:
        self.attempts: list[ReportedAttempt] = []
        self.faults = faults
        self.struck: list[str] = []
        self.left: Snapshot = []
        self.iterations: list[ReportedIteration] = []
        self.rows: list[ReportedAttempt] = []
        self.parked: list[Parked] = []
        self._workflows: dict[str, ReportedWorkflow] = {}

    def note(self, message: Message, attempt: ReportedAttempt) -> None:
        """Add an attempt of `message`."""
        self.attempts.append(attempt)
        if (key := message.whole) is not None:
            found = self._workflows.setdefault(key, ReportedWorkflow(key))
            found.note(message, attempt)

    @property
    def workflows(self) -> list[ReportedWorkflow]:
        """The chains and groups of which a call was delivered; `str()` is a tree."""
        return list(self._workflows.values())

    @property
    def ran(self) -> list[ReportedAttempt]:
        """The attempts that succeeded."""
        return [one for one in self.attempts if one.outcome is Outcome.SUCCEEDED]

    @property
    def failed(self) -> list[ReportedAttempt]:
        """The attempts that failed and were the last of their call, then `rows`."""
        failures = (Outcome.FAILED, Outcome.POSTPONED, Outcome.EXHAUSTED)
        attempts = [
            one
            for one in self.attempts
            if one.outcome in failures and not one.is_retried
        ]
        return attempts + self.rows

    @property
    def retried(self) -> list[ReportedAttempt]:
        """The attempts after which the call was tried again, or will be."""
        return [one for one in self.attempts if one.is_retried]

    @cached_property
    def remaining(self) -> list[QueuedTask]:
        """The calls that still waited when the run ended."""
        return queued_calls.readable(self.left)

    @property
    def calls(self) -> Calls:
        """The number of attempts of each task: `report.calls[send_welcome]`."""
        return Calls(one.task for one in self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        head = (
            f"<Report: {len(self.ran)} ran, {len(self.failed)} failed, "
            f"{len(self.retried)} retried, {len(self.left)} remaining"
        )
        return "\n".join([head, *self._lines()]) + ">"

    def _lines(self) -> Iterator[str]:
        for task, count in self.calls.items():
            yield f"  {task}: {count}"
        yield from _short("failed", self.failed)
        yield from _short("retried", self.retried)
        yield from _short("parked", self.parked)
        yield from _short("remaining", self.remaining)
        yield from _short("iteration", self.iterations)
        for whole in self.workflows[:LISTED]:
            yield from (f"  {line}" for line in str(whole).splitlines())
        if self.faults is not None:
            yield f"  {self.faults!r}"
            yield from _short("struck", self.struck)


def _short(title: str, items: list[Any]) -> Iterator[str]:
    for item in items[:LISTED]:
        yield f"  {title}: {item}"
    if len(items) > LISTED:
        yield f"  {title}: ... and {len(items) - LISTED} more"


MANY = 100_000  # failed rows that a report contains at most


class Iterations:
    """Reads iterations before and after each step, because finalize deletes shards."""

    def __init__(self) -> None:
        self._handles: dict[str, Iteration] = {}
        self._reports: dict[str, IterationReport] = {}
        self._deliveries: dict[str, int] = {}
        self._failures: dict[str, list[RowFailure]] = {}
        self._rows: dict[tuple[str, str], ReportedAttempt] = {}
        self._errors: dict[str, str] = {}
        # By the traceback that the store keeps.
        self._raised: dict[str, BaseException] = {}

    def before(self, message: Message) -> str:
        """Record that a step is about to be delivered; returns the id of its run."""
        run_id = self._look(message)
        self._deliveries[run_id] = self._deliveries.get(run_id, 0) + 1
        return run_id

    def after(
        self, message: Message, now: float, errors: Sequence[BaseException]
    ) -> None:
        """Record the result of a step, in which rows raised `errors`."""
        run_id = self._look(message)
        self._raised.update({traceback_of(error): error for error in errors})
        for failure in self._failures.get(run_id, ()):
            if (run_id, failure.key) in self._rows:
                continue
            self._rows[run_id, failure.key] = ReportedAttempt(
                str(self._handles[run_id].task),
                run_id,
                failure.attempts,
                now,
                Outcome.EXHAUSTED,
                # For a row that killed its worker, only a text exists.
                error=self._raised.get(failure.traceback)
                or RuntimeError(failure.error),
                row=failure.key,
            )

    def _look(self, message: Message) -> str:
        (run_id, *_), _ = codec.loads_call(message.payload)
        handle = self._handles.setdefault(run_id, Iteration(run_id))
        try:
            report = handle.report()
        except LookupError:  # a late step of a run that was pruned
            report = IterationReport(0, 0, 0, None, None, ())
        before = self._reports.get(run_id)
        self._errors[run_id] = handle.error
        if report.shards or before is None:
            self._reports[run_id] = report
            is_paused = handle.state is RunState.PAUSED
            if is_paused or _settled(report) != _settled(before):
                self._failures[run_id] = [
                    failure
                    for failure in handle.failures(MANY)
                    if failure.state is not FailureState.WAITING
                ]
        return str(run_id)

    def all(self) -> list[ReportedIteration]:
        """All iterations, in the order of their first steps."""
        return [
            ReportedIteration(
                run_id,
                handle.task,
                str(handle.state),
                self._deliveries.get(run_id, 0),
                self._reports[run_id],
                self._errors.get(run_id, ""),
                tuple(self._failures.get(run_id, ())),
            )
            for run_id, handle in self._handles.items()
        ]

    def failed_rows(self) -> list[ReportedAttempt]:
        """The rows that failed, without those that on_error="skip" skipped."""
        return [
            self._rows[run_id, failure.key]
            for run_id, failures in self._failures.items()
            for failure in failures
            if self._reports[run_id].failed and (run_id, failure.key) in self._rows
        ]


def _settled(report: IterationReport | None) -> tuple[int, int]:
    """The numbers of rows that failed and were skipped: no retry changes them."""
    return (0, 0) if report is None else (report.failed, report.skipped)
