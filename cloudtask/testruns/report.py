"""What a run did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import EnqueueError
from cloudtask.testruns import calls
from cloudtask.testruns.calls import QueuedTask, Snapshot
from cloudtask.testruns.iterations import IterationRan
from cloudtask.testruns.named import named
from cloudtask.testruns.ran import Ran

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

LISTED = 10  # lines of a kind in a report


class Calls(Mapping[str, int]):
    """How many attempts each task had, by task or by its path; 0 for any other."""

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
    """A call whose commit came, and which the queue then refused with `error`."""

    call: QueuedTask
    error: EnqueueError

    def __str__(self) -> str:
        return f"{self.call}: {self.error}"


class Report:
    """What `run_queued` did, attempt by attempt, and what still waits.

    `iterations` tells of each `.iterate()` that had steps delivered, `rows` of each row
    that was given up, `parked` of calls that came too late for their name: they never
    run, and production parks their rows in the outbox. `faults` is what the run was
    told to do badly, `struck` what of it happened.
    """

    def __init__(self, faults: object = None) -> None:
        self.attempts: list[Ran] = []
        self.faults = faults
        self.struck: list[str] = []
        self.left: Snapshot = []
        self.iterations: list[IterationRan] = []
        self.rows: list[Ran] = []
        self.parked: list[Parked] = []

    @property
    def ran(self) -> list[Ran]:
        """The attempts that succeeded."""
        return [one for one in self.attempts if one.outcome is Outcome.SUCCEEDED]

    @property
    def failed(self) -> list[Ran]:
        """The attempts that failed and were the last of their call, then `rows`."""
        failures = (Outcome.FAILED, Outcome.POSTPONED, Outcome.EXHAUSTED)
        attempts = [
            one
            for one in self.attempts
            if one.outcome in failures and not one.is_retried
        ]
        return attempts + self.rows

    @property
    def retried(self) -> list[Ran]:
        """The attempts after which the call was, or is to be, tried again."""
        return [one for one in self.attempts if one.is_retried]

    @cached_property
    def remaining(self) -> list[QueuedTask]:
        """The calls that still waited when the run ended."""
        return calls.readable(self.left)

    @property
    def calls(self) -> Calls:
        """How many attempts each task had: `report.calls[send_welcome]`."""
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
        if self.faults is not None:
            yield f"  {self.faults!r}"
            yield from _short("struck", self.struck)


def _short(title: str, items: list[Any]) -> Iterator[str]:
    for item in items[:LISTED]:
        yield f"  {title}: {item}"
    if len(items) > LISTED:
        yield f"  {title}: ... and {len(items) - LISTED} more"
