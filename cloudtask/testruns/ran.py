"""One attempt, as the report of a run tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudtask.delivering.settling import Outcome


@dataclass(slots=True)
class Ran:
    """One attempt that `run_queued` made. `time` is virtual, in unix seconds.

    `fault` names the bad luck that made, or met, this delivery. The `value` of the
    function is not known with via="http". `row` is the key of a row of an iteration,
    whose own `id` stands beside it.
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
        error = f": {self.error!r}" if self.error is not None else ""
        fault = f" [{self.fault}]" if self.fault else ""
        row = f" row {self.row}" if self.row is not None else ""
        return (
            f"{self.at:%Y-%m-%d %H:%M:%S} {self.task} ({self.id}){row} attempt "
            f"{self.attempt} {self.outcome.value}{error}{fault}"
        )
