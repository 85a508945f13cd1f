"""The log of dispatches: for the status page, the terminal and tests."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_logger = logging.getLogger("cloudtask.emulator")

KEPT = 10_000
KEPT_ERRORS = 20


@dataclass(frozen=True, slots=True)
class DispatchRecord:
    """One request that was made to a target.

    `task` is the task's full name, `attempt` counts from 1, `status` is None when there
    was no response and `problem` then says why. `verdict` is the effect on the task:
    "done", "retry", "given up", "already gone", or "duplicate" for a second delivery
    that `Chaos` asked for.
    `started` is unix seconds, `duration` seconds.
    """

    task: str
    attempt: int
    method: str
    url: str
    headers: Mapping[str, str]
    status: int | None
    verdict: str
    started: float
    duration: float
    problem: str = ""

    @property
    def task_id(self) -> str:
        return self.task.rpartition("/")[2]

    @property
    def queue(self) -> str:
        """The queue's id."""
        return self.task.split("/")[5]

    def __str__(self) -> str:
        answer = str(self.status) if self.status is not None else "no response"
        line = (
            f"{self.queue}/{self.task_id} attempt {self.attempt} "
            f"{self.method} {self.url} -> {answer} in {self.duration * 1000:.0f} ms"
        )
        if self.verdict != "done":
            line += f", {self.verdict}"
        return f"{line} ({self.problem})" if self.problem else line


class DispatchLog:
    """The last dispatches and the last failures; tells a listener about each."""

    def __init__(self, listener: Callable[[DispatchRecord], None] | None) -> None:
        self.records: deque[DispatchRecord] = deque(maxlen=KEPT)
        self.errors: deque[DispatchRecord] = deque(maxlen=KEPT_ERRORS)
        self.count = 0
        self._listener = listener

    def add(self, record: DispatchRecord) -> None:
        self.count += 1
        self.records.append(record)
        if record.status is None or not 200 <= record.status < 300:
            self.errors.append(record)
        if self._listener is not None:
            self._tell(record, self._listener)

    def _tell(
        self, record: DispatchRecord, listener: Callable[[DispatchRecord], None]
    ) -> None:
        try:
            listener(record)
        except Exception:
            # A broken pipe or a mistake in a test must not stop the dispatching.
            _logger.exception("The listener failed on %s", record)

    def clear(self) -> None:
        self.records.clear()
        self.errors.clear()
        self.count = 0
