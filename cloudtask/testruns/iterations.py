"""Collects the results of the iterations whose steps a test run delivered."""

from __future__ import annotations

from collections.abc import Sequence

from cloudtask import codec
from cloudtask.delivering.settling import Outcome
from cloudtask.iteration import Iteration
from cloudtask.iteration.failing import traceback_of
from cloudtask.message import Message
from cloudtask.runs import FailureState, IterationReport, RowFailure, RunState
from cloudtask.testruns.report import ReportedAttempt, ReportedIteration

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
