"""Lists the calls that are queued, and asserts on what was enqueued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cloudtask import failpoints
from cloudtask.message import Message
from cloudtask.sending.enqueueing import ENQUEUED
from cloudtask.testruns import calls, commits
from cloudtask.testruns.calls import QueuedTask
from cloudtask.testruns.expectations import Expectation, expected, listed
from cloudtask.testruns.named import named
from cloudtask.transports import memory

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

IN_QUEUE = "is queued"
IN_BLOCK = "was enqueued in the block"


def queued(
    task: Nameable | None = None, *, queue: str | None = None
) -> list[QueuedTask]:
    """The calls that wait, in the order in which they would run.

    Calls whose transaction is still open come last. With `task`, only its calls are
    listed; its options, and the instance that a method is bound to, must agree. With
    `queue`, only calls on that queue are listed.
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


def assert_enqueued(
    task: Nameable, /, *args: Any, count: int | None = None, **kwargs: Any
) -> list[QueuedTask]:
    """Assert that a call of `task` is queued, and return the calls that match.

    Arguments that are left out can have any value, as can `unittest.mock.ANY`. Options
    that `.using()` was given must agree, an eta within five seconds. `count` is the
    exact number of matches; without it, there must be at least one.

    `task` may also be a task of `django.tasks`, or a function that was given to
    `cloudtask.deferred`. Raises TypeError for arguments that it does not take.
    """
    wanted = expected(task, args, kwargs)
    return _wanted_calls(wanted, count, queued(), IN_QUEUE)


def assert_not_enqueued(task: Nameable, /, *args: Any, **kwargs: Any) -> None:
    """Assert that no call of `task` with these arguments and options is queued.

    Raises TypeError for arguments that `task` does not take.
    """
    _refuse_any(expected(task, args, kwargs), queued(), IN_QUEUE)


@contextmanager
def enqueues(
    task: Nameable, /, *args: Any, count: int | None = None, **kwargs: Any
) -> Iterator[list[QueuedTask]]:
    """Assert that the `with` block enqueues a call of `task`.

    Arguments and `count` mean what they mean in `assert_enqueued`. Calls count whether
    or not they have run when the block ends; calls of a transaction that was rolled
    back do not. `as found` is a list, which has the matches after the block.
    """
    wanted = expected(task, args, kwargs)
    found: list[QueuedTask] = []
    with _collected() as messages:
        yield found
    found += _wanted_calls(wanted, count, _standing(messages), IN_BLOCK)


@contextmanager
def enqueues_nothing(
    task: Nameable | None = None, /, *args: Any, **kwargs: Any
) -> Iterator[None]:
    """Assert that the `with` block enqueues no call, or no such call of `task`."""
    unwanted = None if task is None else expected(task, args, kwargs)
    with _collected() as messages:
        yield
    found = _standing(messages)
    if unwanted is not None:
        _refuse_any(unwanted, found, IN_BLOCK)
    elif found:
        raise AssertionError(
            f"The block should enqueue nothing. {listed(found, IN_BLOCK)}"
        )


@contextmanager
def _collected() -> Iterator[list[Message]]:
    """The messages that are enqueued inside the block."""
    messages: list[Message] = []
    failpoints.listen(ENQUEUED, messages.extend)
    try:
        yield messages
    finally:
        failpoints.stop_listening(ENQUEUED, messages.extend)


def _standing(messages: Sequence[Message]) -> list[QueuedTask]:
    """The calls of `messages`, without those that a rollback removed."""
    queue = memory.queue()
    uncommitted = {message.id for message in commits.waiting()}
    return calls.readable(
        (message, message.id in uncommitted)
        for message in messages
        if message.id in uncommitted or queue.has_had(message)
    )


def _refuse_any(unwanted: Expectation, found: Sequence[QueuedTask], where: str) -> None:
    if any(unwanted.is_met_by(call) for call in found):
        raise AssertionError(
            f"{unwanted} should not be there. {unwanted.listing(found, where)}"
        )


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
