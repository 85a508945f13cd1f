"""What became of the iterations whose steps a run has delivered."""

from __future__ import annotations

from dataclasses import dataclass

from cloudtask import codec
from cloudtask.iteration.handle import Iteration, IterationReport
from cloudtask.message import Message

STEPS = "cloudtask.iteration."


@dataclass(frozen=True, slots=True)
class IterationRan:
    """An iteration, as it was when its last step ended.

    `deliveries` counts its steps; `report` is from before its rows were deleted.
    """

    id: str
    task: str | None
    state: str
    deliveries: int
    report: IterationReport

    def __str__(self) -> str:
        report = self.report
        return (
            f"of {self.task}: {report.done} done, {report.failed} failed, "
            f"{report.skipped} skipped, {len(report.shards)} shards, "
            f"{self.deliveries} deliveries, {self.state}"
        )


class Iterations:
    """Looks at iterations before and after each step: finalize deletes their rows."""

    def __init__(self) -> None:
        self._handles: dict[str, Iteration] = {}
        self._reports: dict[str, IterationReport] = {}
        self._deliveries: dict[str, int] = {}

    def before(self, message: Message) -> None:
        """Note that a step is about to be delivered."""
        run_id = self._look(message)
        self._deliveries[run_id] = self._deliveries.get(run_id, 0) + 1

    def after(self, message: Message) -> None:
        """Note what a step has come to."""
        self._look(message)

    def _look(self, message: Message) -> str:
        (run_id, *_), _ = codec.loads_call(message.payload)
        handle = self._handles.setdefault(run_id, Iteration(run_id))
        report = handle.report()
        if report.shards or run_id not in self._reports:
            self._reports[run_id] = report
        return str(run_id)

    def all(self) -> list[IterationRan]:
        """In the order of their first steps."""
        return [
            IterationRan(
                run_id,
                handle.task,
                str(handle.state),
                self._deliveries.get(run_id, 0),
                self._reports[run_id],
            )
            for run_id, handle in self._handles.items()
        ]
