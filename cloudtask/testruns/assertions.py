"""Asserts on what was enqueued, and that a second delivery changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

from cloudtask import failpoints
from cloudtask.message import Message
from cloudtask.sending.enqueueing import ENQUEUED
from cloudtask.testruns import queued_calls, wholes
from cloudtask.testruns.contents import (
    Contents,
    contents,
    renumbered,
    usable_aliases,
)
from cloudtask.testruns.expectations import Expectation, Found, expected, listed
from cloudtask.testruns.faults import CrashPoint, Faults, crash_at
from cloudtask.testruns.misfortune import NotIdempotent
from cloudtask.testruns.named import named
from cloudtask.testruns.queued_calls import QueuedTask
from cloudtask.testruns.runners import run_queued
from cloudtask.testruns.virtual import VirtualClock, frozen
from cloudtask.testruns.wholes import Whole
from cloudtask.transports import memory
from cloudtask.workflows import Chain, Group

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

__tracebackhide__ = True  # pytest ends at the line of the test

IN_QUEUE = Found("Nothing is queued.", "These calls are queued:")
IN_BLOCK = Found(
    "Nothing was enqueued in the block.", "These calls were enqueued in the block:"
)


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
            path is None or queued_calls.task_of(message) == path
        )

    found = queued_calls.readable(queued_calls.snapshot(wanted))
    if task is None:
        return found
    expectation = expected(task, (), {})
    return [call for call in found if expectation.is_met_by(call)]


def assert_enqueued(
    task: Nameable | Whole, /, *args: Any, count: int | None = None, **kwargs: Any
) -> list[QueuedTask]:
    """Assert that a call of `task` is queued, and return the calls that match.

    Arguments that are left out can have any value, as can `unittest.mock.ANY`. Options
    that `.using()` was given must agree, an eta within five seconds. `count` is the
    exact number of matches; without it, there must be at least one.

    `task` may also be a task of `django.tasks`, or a function that was given to
    `cloudtask.deferred`. Raises TypeError for arguments that it does not take.

    It may also be a `chain(...)` or a `group(...)`, of which nothing has run yet. All
    its steps and members must agree; the first calls of those that match are returned.
    """
    if isinstance(task, Chain | Group):
        return _wanted_wholes(_whole(task, args, kwargs), count, _messages(), IN_QUEUE)
    wanted = expected(task, args, kwargs)
    return _wanted_calls(wanted, count, queued(), IN_QUEUE)


def assert_not_enqueued(task: Nameable | Whole, /, *args: Any, **kwargs: Any) -> None:
    """Assert that no call of `task` with these arguments and options is queued.

    `task` may be a chain or a group, too. Raises TypeError for arguments that `task`
    does not take.
    """
    if isinstance(task, Chain | Group):
        whole = _whole(task, args, kwargs)
        _wanted_wholes(whole, 0, _messages(), IN_QUEUE)
        return
    _refuse_any(expected(task, args, kwargs), queued(), IN_QUEUE)


def enqueues(
    task: Nameable | Whole, /, *args: Any, count: int | None = None, **kwargs: Any
) -> Block:
    """Assert that the `with` block enqueues a call of `task`.

    Arguments and `count` mean what they mean in `assert_enqueued`. Calls count whether
    or not they have run when the block ends; calls of a transaction that was rolled
    back do not. `as found` is a list, which has the matches after the block.
    """
    if isinstance(task, Chain | Group):
        whole = _whole(task, args, kwargs)
        return Block(lambda sent: _wanted_wholes(whole, count, sent, IN_BLOCK))
    wanted = expected(task, args, kwargs)
    return Block(lambda sent: _wanted_calls(wanted, count, _standing(sent), IN_BLOCK))


def enqueues_nothing(
    task: Nameable | None = None, /, *args: Any, **kwargs: Any
) -> Block:
    """Assert that the `with` block enqueues no call, or no such call of `task`."""
    if task is None:
        return Block(_wanted_nothing)
    unwanted = expected(task, args, kwargs)

    def check(sent: Sequence[Message]) -> list[QueuedTask]:
        _refuse_any(unwanted, _standing(sent), IN_BLOCK)
        return []

    return Block(check)


class Block(ContextDecorator):
    """Collects the messages that are enqueued inside a block, and checks them at its
    end.

    With `contextmanager`, a failure would show the source of contextlib.
    """

    def __init__(self, check: Callable[[Sequence[Message]], list[QueuedTask]]) -> None:
        self._check = check
        self._opened: list[tuple[list[Message], list[QueuedTask]]] = []

    def __enter__(self) -> list[QueuedTask]:
        messages: list[Message] = []
        found: list[QueuedTask] = []
        self._opened.append((messages, found))
        failpoints.listen(ENQUEUED, messages.extend)
        return found

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        messages, found = self._opened.pop()
        failpoints.stop_listening(ENQUEUED, messages.extend)
        if kind is None:
            found += self._check(messages)


def _wanted_nothing(sent: Sequence[Message]) -> list[QueuedTask]:
    if found := _standing(sent):
        raise AssertionError(
            f"The block should enqueue nothing. {listed(found, IN_BLOCK)}"
        )
    return []


def _standing(messages: Sequence[Message]) -> list[QueuedTask]:
    """The calls of `messages`, without those that a rollback removed."""
    queue = memory.queue()
    uncommitted = {message.id for message in queued_calls.uncommitted()}
    return queued_calls.readable(
        (message, message.id in uncommitted)
        for message in messages
        if message.id in uncommitted or queue.has_had(message)
    )


def _refuse_any(
    unwanted: Expectation, found: Sequence[QueuedTask], where: Found
) -> None:
    if any(unwanted.is_met_by(call) for call in found):
        raise AssertionError(
            f"{unwanted} should not be there. {unwanted.listing(found, where)}"
        )


def _wanted_calls(
    wanted: Expectation, count: int | None, found: Sequence[QueuedTask], where: Found
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


def _whole(tree: Whole, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Whole:
    if args or kwargs:
        raise TypeError("A chain or a group has its arguments in its signatures.")
    return tree


def _messages() -> list[Message]:
    return [message for message, _ in queued_calls.snapshot()]


def _wanted_wholes(
    tree: Whole, count: int | None, messages: Sequence[Message], where: Found
) -> list[QueuedTask]:
    """The first calls of the chains and groups that match."""
    compared = [
        (one, wholes.differences(tree, one.lines)) for one in wholes.found(messages)
    ]
    matches = [one for one, others in compared if not others]
    if (count is None and matches) or count == len(matches):
        first = [message for one in matches for message in one.first]
        return queued_calls.readable((message, False) for message in first)
    was = "was not enqueued" if count is None else f"was enqueued {len(matches)}x"
    nearest = min((others for _, others in compared if others), key=len, default=())
    told = f"The nearest one differs: {'; '.join(nearest)}." if nearest else ""
    calls = listed(queued_calls.readable((m, False) for m in messages), where)
    raise AssertionError(f"{tree!r} {was}. {told}\n{calls}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


TWICE = Faults(duplicate=True)


def assert_idempotent(task: Nameable, /, *args: Any, **kwargs: Any) -> None:
    """Assert that a second delivery of the call, and what it enqueues, changes nothing.

    Delivers the call once; then twice; then, for each failpoint that it passes, with a
    crash there and a second delivery. Each time the database must have the same
    contents in the end. The library's own tables, and columns that are set to the
    current time on their own, are not compared. All changes are rolled back, and
    `timezone.now()` does not advance.

    Raises NotIdempotent, or the error of the task in the first run.
    """
    if not usable_aliases():
        connections["default"].ensure_connection()
    found = named(task)
    trial = _Trial(lambda: found.defer(*args, **kwargs), found.path)
    with frozen(VirtualClock()):
        passed = trial.once()
        trial.compare(TWICE)
        for point in passed:
            trial.compare(Faults(crash=crash_at(point)))


class _Trial:
    """Runs of one call, each from the same state of the databases."""

    def __init__(self, defer: Callable[[], object], path: str) -> None:
        self.defer = defer
        self.path = path
        self.aliases = usable_aliases()
        self.before = contents(self.aliases)
        self.wanted = Contents()

    def once(self) -> list[str]:
        """Run without faults; returns the failpoints that were passed, in order."""
        passed: list[str] = []
        with self._undone(), ExitStack() as stack:
            self.defer()
            for point in failpoints.POINTS:
                stack.enter_context(failpoints.at(point, partial(passed.append, point)))
            run_queued()
            self.wanted = self._contents()
        return list(dict.fromkeys(passed))

    def compare(self, faults: Faults) -> None:
        """Run with `faults`; raises NotIdempotent if the result differs from `once`."""
        with self._undone():
            self.defer()
            run_queued(errors="retry", faults=faults)
            changes = self.wanted.differences(self._contents())
        if changes:
            raise NotIdempotent(
                f"{self.path} is not idempotent: {_described(faults)}, the database is "
                "not as after one delivery:\n  " + "\n  ".join(changes)
            )

    def _contents(self) -> Contents:
        return renumbered(self.before, contents(self.aliases))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Roll back the writes of the block, which has a queue of its own."""
        with ExitStack() as stack:
            stack.enter_context(memory.aside())
            for alias in self.aliases:
                stack.enter_context(_rolled_back(alias))
            yield


@contextmanager
def _rolled_back(alias: str) -> Iterator[None]:
    block: Any = transaction.atomic(using=alias)
    # Like a test's own transaction, it allows `durable` blocks inside.
    block._from_testcase = True
    with block:
        yield
        transaction.set_rollback(True, using=alias)


def _described(faults: Faults) -> str:
    if isinstance(faults.crash, CrashPoint):
        what = f"after a crash at {faults.crash.point} and a second delivery"
    else:
        what = "delivered twice"
    return f"{what} ({faults!r})"
