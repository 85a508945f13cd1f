"""Runs calls at once, when they are deferred."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any, Self, TypeVar

from cloudtask import failpoints
from cloudtask.iteration.steps import SENT, STEPS
from cloudtask.message import Message
from cloudtask.sending.enqueueing import ENQUEUED
from cloudtask.testruns import commits
from cloudtask.testruns.endless import EndlessTasks, chain_of
from cloudtask.testruns.loops import out_of_loop
from cloudtask.testruns.run import Run
from cloudtask.transports import memory

F = TypeVar("F", bound=Callable[..., Any])
DEEPEST = 40  # eager calls inside one another


class eager(ContextDecorator):
    """Inside the block, or the decorated function, `defer()` runs the call at once.

    The call takes the whole wire format first. One that waits for a commit or an eta
    runs at once too, and its error leaves `defer()`. All steps of an iteration run,
    also those that its handle enqueues, for example by `resume()`; the error of a row
    leaves `iterate()`, as it leaves `run_queued()`. Decorates `def` and `async def`.
    """

    def __init__(self) -> None:
        self._later: set[str] = set()

    def __enter__(self) -> Self:
        failpoints.listen(ENQUEUED, _run_now)
        failpoints.listen(SENT, self._run_steps)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        failpoints.stop_listening(ENQUEUED, _run_now)
        failpoints.stop_listening(SENT, self._run_steps)
        later, self._later = self._later, set()
        if later and kind is None:
            _run(later)

    def _run_steps(self, messages: Sequence[Message]) -> None:
        """Run the steps that a handle has sent; delayed ones when the block ends.

        A handle sends delayed steps in case its process is killed. Steps that another
        step sends are left to the run that delivers that one.
        """
        running = memory.queue().running
        if running is not None and running.message.task in STEPS:
            return
        self._later |= {one.id for one in messages if one.eta is not None}
        if now := [message for message in messages if message.eta is None]:
            _run_now(now)

    def __call__(self, function: F) -> F:
        if not inspect.iscoroutinefunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        async def eagerly(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return eagerly  # type: ignore[return-value]


def _run_now(messages: Sequence[Message]) -> None:
    ids = {message.id for message in messages}
    for entry in list(commits.entries()):
        if any(message.id in ids for message in entry.messages):
            commits.send(entry)
    _run(ids)


def _run(ids: set[str]) -> None:
    queue = memory.queue()
    if queue.eagerness >= DEEPEST:
        chain = chain_of(queue.running) if queue.running else "?"
        raise EndlessTasks(
            f"{DEEPEST} tasks run inside one another, by this chain: {chain}. Use "
            "run_queued() for tasks that enqueue tasks so deeply."
        )
    queue.eagerness += 1
    try:
        with out_of_loop():
            Run().at_once(ids)
    finally:
        queue.eagerness -= 1
