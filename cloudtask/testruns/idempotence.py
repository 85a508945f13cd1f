"""Tests that a second delivery of a call, or one after a crash, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

from cloudtask import failpoints
from cloudtask.testruns.contents import (
    Contents,
    contents,
    renumbered,
    usable_aliases,
)
from cloudtask.testruns.faults import CrashPoint, Faults, crash_at
from cloudtask.testruns.misfortune import NotIdempotent
from cloudtask.testruns.named import named
from cloudtask.testruns.runners import run_queued
from cloudtask.testruns.virtual import VirtualClock, frozen
from cloudtask.transports import memory

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

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
