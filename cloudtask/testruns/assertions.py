"""Assertions on what was enqueued, as functions and as blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from cloudtask import failpoints
from cloudtask.message import Message
from cloudtask.sending.enqueueing import ENQUEUED
from cloudtask.testruns import calls, commits
from cloudtask.testruns.callers import opens_block
from cloudtask.testruns.calls import QueuedTask
from cloudtask.testruns.expectations import Expectation, expected
from cloudtask.testruns.named import named
from cloudtask.transports import memory

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

Check = Callable[[Sequence[QueuedTask], str], list[QueuedTask]]


class Enqueues(list[QueuedTask]):
    """The calls that an assertion found; of a `with` block, once it has ended."""

    def __enter__(self) -> Self:
        raise AssertionError(
            "assert_enqueued() has looked already: it opens a block only where it "
            "stands in the `with` statement itself."
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Block(Enqueues):
    """Collects what is enqueued inside the block, and checks it at the end."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.check = check
        self.left: list[Message] = []

    def __enter__(self) -> Self:
        failpoints.listen(ENQUEUED, self.left.extend)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failpoints.stop_listening(ENQUEUED, self.left.extend)
        if error is None:
            self[:] = self.check(self._calls(), "was enqueued in the block")

    def _calls(self) -> list[QueuedTask]:
        """What came into being for good: not what a rollback took back."""
        queue = memory.queue()
        uncommitted = {message.id for message in commits.waiting()}
        kept = [
            (message, message.id in uncommitted)
            for message in self.left
            if message.id in uncommitted or queue.has_had(message)
        ]
        return calls.readable(kept)


def _looked(check: Check, caller: FrameType) -> Enqueues:
    """Check what is queued now, or what a `with` block is going to enqueue."""
    if opens_block(caller):
        return Block(check)
    return Enqueues(check(calls.readable(calls.snapshot()), "is queued"))


def assert_enqueued(
    task: Nameable, /, *args: Any, count: int | None = None, **kwargs: Any
) -> Enqueues:
    """Assert that a call of `task` is queued, and return those that match.

    `task` may be one of `django.tasks` as well, or what `cloudtask.deferred` was given.
    Arguments that are left out may be anything, as may `unittest.mock.ANY`; options
    given by `.using()` must agree, an eta within five seconds. `count` asks for exactly
    so many; without it one or more will do.

    In a `with` statement, it asserts when the block ends, on what was enqueued inside
    it, whether it has run by then or not; `as found` is the list of matches.

    Raises TypeError for arguments that `task` does not take.
    """
    wanted = expected(task, args, kwargs)

    def check(found: Sequence[QueuedTask], where: str) -> list[QueuedTask]:
        return _wanted_calls(wanted, count, found, where)

    return _looked(check, sys._getframe(1))


def assert_not_enqueued(task: Nameable, /, *args: Any, **kwargs: Any) -> Enqueues:
    """Assert that no call of `task` with these arguments and options is queued, or, in
    a `with` statement, that none is enqueued inside the block."""
    wanted = expected(task, args, kwargs)

    def check(found: Sequence[QueuedTask], where: str) -> list[QueuedTask]:
        if any(wanted.is_met_by(call) for call in found):
            raise AssertionError(
                f"{wanted} should not be there. {wanted.listing(found, where)}"
            )
        return []

    return _looked(check, sys._getframe(1))


def _wanted_calls(
    wanted: Expectation, count: int | None, found: Sequence[QueuedTask], where: str
) -> list[QueuedTask]:
    matches = [call for call in found if wanted.is_met_by(call)]
    if (count is None and matches) or count == len(matches):
        return matches
    problem = (
        f"{wanted} was not enqueued."
        if count is None
        else f"{wanted} was enqueued {_times(len(matches))}, not {_times(count)}."
    )
    raise AssertionError(f"{problem} {wanted.listing(found, where)}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def queued(
    task: Nameable | None = None, *, queue: str | None = None
) -> list[QueuedTask]:
    """The calls that wait, in the order in which they would run.

    Those whose transaction is still open come last. Only calls of `task`, with its
    options and its subject if it has any, and only those on `queue`, when given.
    """
    path = None if task is None else named(task).path

    def wanted(message: Message) -> bool:
        return queue in (None, message.queue) and (
            path is None or calls.task_of(message) == path
        )

    found = calls.readable(calls.snapshot(wanted))
    if task is None:
        return found
    expectation = expected(task, (), {})
    return [call for call in found if expectation.is_met_by(call)]
