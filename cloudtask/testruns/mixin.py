"""Provides the mixin for unittest's TestCase, and the check for tasks left queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from cloudtask.testruns import queued_calls
from cloudtask.testruns.assertions import (
    assert_enqueued,
    assert_idempotent,
    assert_not_enqueued,
    enqueues,
    enqueues_nothing,
    queued,
)
from cloudtask.testruns.queued_calls import QueuedTask
from cloudtask.testruns.runners import run_queued
from cloudtask.transports import memory

if TYPE_CHECKING:
    from unittest import TestCase as Base
else:
    Base = object

__tracebackhide__ = True  # pytest ends at the line of the test

LISTED = 5  # tasks that the note of a failure names


class TasksLeft(AssertionError):
    """A strict test left tasks queued that never ran."""


class TaskQueue(Sequence[QueuedTask]):
    """The queue of the running test, as a sequence of the waiting calls."""

    def __getitem__(self, place: Any) -> Any:
        return queued()[place]

    def __iter__(self) -> Iterator[QueuedTask]:
        return iter(queued())

    def __len__(self) -> int:
        return len(queued_calls.uncommitted()) + len(memory.queue())

    def clear(self) -> None:
        """Remove all waiting calls."""
        for entry in queued_calls.entries():
            entry.messages = ()
        memory.queue().clear()

    def __repr__(self) -> str:
        return f"<TaskQueue: {[str(call) for call in self]}>"


class CloudTaskTestMixin(Base):
    """A clean queue for each test of a TestCase, and the functions as methods.

    Put it before the TestCase in the list of bases. With `cloudtask_strict = True`, a
    test that leaves tasks queued which never ran fails.
    """

    cloudtask_strict = False
    cloudtask_queue = TaskQueue()

    run_queued = staticmethod(run_queued)
    queued = staticmethod(queued)
    assert_enqueued = staticmethod(assert_enqueued)
    assert_not_enqueued = staticmethod(assert_not_enqueued)
    enqueues = staticmethod(enqueues)
    enqueues_nothing = staticmethod(enqueues_nothing)
    assert_idempotent = staticmethod(assert_idempotent)

    def run(self, result: Any = None) -> Any:
        memory.start_test()
        if self.cloudtask_strict:
            # The first cleanup runs last, still inside the transaction.
            self.addCleanup(refuse_leftovers)
        return super().run(result)

    def _callTestMethod(self, method: Any) -> Any:
        # unittest has this hook in 3.11 to 3.14. A failure names its faults and seeds.
        try:
            return super()._callTestMethod(method)  # type: ignore[misc]
        except Exception as error:
            if untried := told_of_untried(error):
                error.add_note(untried)
            told = getattr(error, "__notes__", ())
            for line in memory.queue().misfortunes:
                if not any(line in note for note in told):
                    error.add_note(f"cloudtask: {line}")
            raise


def told_of_untried(error: BaseException) -> str:
    """A sentence for a failed test about calls that never ran.

    It is empty if there are none, or if `error` is about the queue or is noted already.
    """
    told = "" if _comes_from_here(error) else _told_of_untried()
    return "" if told in getattr(error, "__notes__", ()) else told


def _told_of_untried() -> str:
    try:
        counts = Counter(queued_calls.task_of(one) for one, _ in queued_calls.untried())
    except Exception:  # noqa: BLE001  nothing may hide why the test failed
        return ""
    total = counts.total()
    if not total:
        return ""
    names = [f"{name} ({n} times)" if n > 1 else name for name, n in counts.items()]
    if len(names) > LISTED:
        names[LISTED:] = [f"and {len(names) - LISTED} other tasks"]
    start, them = (
        ("1 call is queued and has", "it")
        if total == 1
        else (f"{total} calls are queued and have", "them")
    )
    return (
        f"{start} not run: {', '.join(names)}. Call cloudtask.testing.run_queued() to "
        f"run {them}."
    )


def _comes_from_here(error: BaseException) -> bool:
    """Whether an assertion of this package, or a run of the queue, raised `error`."""
    if isinstance(error, TasksLeft):
        return True
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    hook = CloudTaskTestMixin._callTestMethod.__code__  # it surrounds every test
    return any(
        frame.f_globals.get("__package__") == __package__ and frame.f_code is not hook
        for frame in frames
    )


def refuse_leftovers() -> None:
    """Raise TasksLeft if calls that were never tried are waiting."""
    if found := queued_calls.untried():
        lines = "\n".join(f"  {call}" for call in queued_calls.readable(found))
        raise TasksLeft(
            f"The test left tasks queued. Run them with run_queued(), or clear the "
            f"queue:\n{lines}"
        )
