"""Defines the faults of a test run: failures that can also happen with Cloud Tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from django.db import connections

from cloudtask import failpoints
from cloudtask.failpoints import Crashed
from cloudtask.sending.on_commit import Entry
from cloudtask.testruns import queued_calls
from cloudtask.transports import memory

__tracebackhide__ = True  # pytest ends at the line of the test

OF_OUTBOX = frozenset({"outbox.added", "outbox.committed", "outbox.sent"})
# The failpoints that a commit passes.
OF_COMMITS = frozenset(
    {"outbox.committed", "outbox.sent", "enqueue.before_send", "enqueue.after_send"}
)


class CrashPoint:
    """The process crashes the first time, or `times`, that `point` is reached.

    As a context manager, the block stands for the process: it ends where the process
    crashes. In a test whose own transaction never commits, the calls that the block
    enqueued commit at its end. If the block does not reach the point, the test fails.
    """

    def __init__(self, point: str, times: int) -> None:
        if point not in failpoints.POINTS:
            known = ", ".join(sorted(failpoints.POINTS))
            raise ValueError(f"There is no failpoint {point!r}; known are {known}.")
        self.point = point
        self.times = times
        self.struck = 0
        self._armed = ExitStack()
        self._before: list[Entry] = []

    def arm(self) -> ExitStack:
        """Crash at the point until the stack is closed; the count starts at zero."""
        self.struck = 0
        stack = ExitStack()
        stack.enter_context(failpoints.at(self.point, self._strike))
        return stack

    def _strike(self) -> None:
        if self.struck < self.times:
            self.struck += 1
            memory.queue().is_disturbed = True
            raise Crashed(f"crashed at {self.point}")

    def __enter__(self) -> Self:
        self._before = list(queued_calls.entries())
        self._armed = self.arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        with self._armed:
            if error is None and not self.struck and self.point in OF_COMMITS:
                self._commit()
        if error is None and not self.struck:
            raise self.unreached()
        return isinstance(error, Crashed)

    def _commit(self) -> None:
        """Do what the commits of the block would have done, until the process crashes.

        The rest is not done later either.
        """
        made = self._made()
        try:
            for entry in made:
                if queued_calls.is_committed(entry):
                    queued_calls.send(entry)
        except Crashed:
            for entry in made:
                entry.messages = ()

    def _made(self) -> list[Entry]:
        """The on-commit entries of the block that were not done yet."""
        return [entry for entry in queued_calls.entries() if entry not in self._before]

    def unreached(self) -> AssertionError:
        """The error for a crash that should have happened, and did not."""
        text = f"Nothing reached the failpoint {self.point!r}."
        if self.point in OF_COMMITS and self._made():
            text += " Calls still wait for the end of an atomic() block that is open."
        elif self.point in OF_OUTBOX:
            text += (
                " Calls pass the outbox only if they wait for a commit and are not "
                "small. Calls that were sent before do not pass it again."
            )
        return AssertionError(text)

    def __repr__(self) -> str:
        times = f", times={self.times}" if self.times != 1 else ""
        return f"crash_at({self.point!r}{times})"


def crash_at(point: str, *, times: int = 1) -> CrashPoint:
    """A crash at one of `cloudtask.failpoints.POINTS`.

    For `Faults(crash=...)`, for `run_queued(faults=...)`, or as a `with` block.
    Raises ValueError for an unknown point.
    """
    return CrashPoint(point, times)


@dataclass(frozen=True, kw_only=True, repr=False)
class Faults:
    """The faults of a run, each with its chance: 0 to 1, or True for always.

    `duplicate`: a call that succeeded is delivered again. `concurrent`: a call is
    delivered a second time while it runs. `crash`: the process is killed at some
    failpoint, or at that of `crash_at()`. `reorder`: calls that are due change their
    order. `lose_ack`: the answer is lost, so the service tries again.
    `enqueue_errors`: an enqueue fails, whether or not the queue accepted the call.

    Each fault happens to a call at most once, so every run ends. The same `seed` leads
    to the same choices.
    """

    duplicate: float = 0.0
    concurrent: float = 0.0
    crash: float | CrashPoint = 0.0
    reorder: float = 0.0
    lose_ack: float = 0.0
    enqueue_errors: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seed" or isinstance(value, CrashPoint):
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(
                    f"Faults({field.name}=) is a chance from 0 to 1, not {value!r}."
                )

    def __repr__(self) -> str:
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "seed" or getattr(self, field.name)
        ]
        return f"Faults({', '.join(given)})"


# A second delivery during the first, on the same thread and connection. It runs from
# start to end at one moment of the first: before its function, after it, or between
# two of its statements. It never runs inside a transaction of the function, because a
# database would isolate the two.

STATEMENTS = 3  # the second delivery runs before one of the first three statements


class _Rival:
    """The second delivery: runs once, at the chosen moment, or after the function."""

    def __init__(self, moment: int, arrive: Callable[[], None]) -> None:
        self.left = moment
        self.arrive = arrive
        self.has_come = False
        self.depths: dict[str, int] = {}

    def come(self) -> None:
        if not self.has_come:
            self.has_come = True
            self.arrive()

    def before_call(self) -> None:
        self.depths = {
            connection.alias: len(connection.atomic_blocks)
            for connection in connections.all(initialized_only=True)
        }
        if self.left == 0:
            self.come()

    def before_statement(
        self, execute: Any, sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        connection = context["connection"]
        depth = self.depths.get(connection.alias)
        if not self.has_come and len(connection.atomic_blocks) == depth:
            self.left -= 1
            if self.left == 0:
                self.come()
        return execute(sql, params, many, context)


@contextmanager
def rival_inside(chance: random.Random, arrive: Callable[[], None]) -> Iterator[None]:
    """Have `arrive` called once, inside the delivery that the block makes."""
    rival = _Rival(chance.randint(0, STATEMENTS), arrive)
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            stack.enter_context(connection.execute_wrapper(rival.before_statement))
        stack.enter_context(failpoints.at("execute.before_call", rival.before_call))
        stack.enter_context(failpoints.at("execute.after_call", rival.come))
        yield
