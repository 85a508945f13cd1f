"""Logs dispatches for the status page, the terminal and tests."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_logger = logging.getLogger("cloudtask.emulator")

KEPT = 10_000
KEPT_ERRORS = 20

# The outcomes that a handler may give in the response header X-CloudTask-Outcome.
# cloudtask's handler does; any other application may do the same.
OUTCOMES = {
    "succeeded": "",
    "duplicate": "it had succeeded before",
    "cancelled": "cancelled",
    "skipped": "skipped: an earlier call of its schedule was running",
    "retried": "failed, the application itself tries it again",
    "failed": "failed",
    "postponed": "postponed by the handler",
    "exhausted": "failed for the last time",
}


@dataclass(frozen=True, slots=True)
class DispatchRecord:
    """One request that was made to a target.

    `task` is the task's full name, `attempt` counts from 1, `status` is None when there
    was no response and `problem` then says why. `outcome` is the response header
    X-CloudTask-Outcome. `verdict` is the effect on the task: "done", "retry", "given
    up", "already gone", or "duplicate" for a second delivery that `Chaos` asked for.
    `started` is unix seconds, `duration` seconds, as is `next_in`: the time until the
    next attempt, None when there is none. Text and repr leave out what may be a secret:
    the headers, and the query of the URL.
    """

    task: str
    attempt: int
    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    status: int | None
    verdict: str
    started: float
    duration: float
    problem: str = ""
    outcome: str = ""
    next_in: float | None = None

    @property
    def task_id(self) -> str:
        return self.task.rpartition("/")[2]

    @property
    def queue(self) -> str:
        """The queue's id; "" for a call that belongs to no task."""
        parts = self.task.split("/")
        return parts[5] if len(parts) > 5 else ""

    @property
    def is_failure(self) -> bool:
        """Whether it belongs among the failures.

        A handler acknowledges a task that it gave up, and postpones one on purpose: the
        outcome tells more than the status.
        """
        if self.outcome in ("exhausted", "postponed"):
            return self.outcome == "exhausted"
        return self.status is None or not 200 <= self.status < 300

    def __str__(self) -> str:
        name = f"{self.queue}/{self.task_id}" if self.queue else self.task
        answer = str(self.status) if self.status is not None else "no response"
        parts = [
            f"{name} attempt {self.attempt} {self.method} "
            f"{without_secrets(self.url)} -> {answer} in {self.duration * 1000:.0f} ms",
            OUTCOMES.get(self.outcome, self.outcome),
            "" if self.verdict == "done" else self._followed(),
        ]
        line = ", ".join(filter(None, parts))
        return f"{line} ({self.problem})" if self.problem else line

    def _followed(self) -> str:
        if self.next_in is None:
            return self.verdict
        return f"{self.verdict} in {self.next_in:.1f} s"


def without_secrets(url: str) -> str:
    """`url` without user name, password and the query, which may hold a token."""
    place, question, _ = url.partition("?")
    return re.sub(r"//[^/@]*@", "//", place) + ("?..." if question else "")


class DispatchLog:
    """The last dispatches and the last failures; tells a listener about each."""

    def __init__(self, listener: Callable[[DispatchRecord], None] | None) -> None:
        self.records: deque[DispatchRecord] = deque(maxlen=KEPT)
        self.errors: deque[DispatchRecord] = deque(maxlen=KEPT_ERRORS)
        self.count = 0
        self._listener = listener

    def add(self, record: DispatchRecord) -> None:
        """Keep the record of an attempt, and note it."""
        self.count += 1
        self.records.append(record)
        self.note(record)

    def note(self, record: DispatchRecord) -> None:
        """Tell the listener, and keep a failure."""
        if record.is_failure:
            self.errors.append(record)
        if self._listener is not None:
            self._tell(record, self._listener)

    def clear(self) -> None:
        self.records.clear()
        self.errors.clear()
        self.count = 0

    def _tell(
        self, record: DispatchRecord, listener: Callable[[DispatchRecord], None]
    ) -> None:
        try:
            listener(record)
        except Exception:
            # A broken pipe or a mistake in a test must not stop the dispatching.
            _logger.exception("The listener failed on %s", record)
