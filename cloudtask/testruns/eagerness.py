"""`defer()` that runs the call at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any, Self, TypeVar

from cloudtask import failpoints
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

    The call takes the whole wire format first; one that awaits a commit or an eta runs
    at once too, and what it raises comes out of `defer()`. So does an iteration: all of
    its steps run, and what a row raises comes out of `iterate()`, as it does out of
    `run_queued()`. Decorates `def` and `async def`.
    """

    def __enter__(self) -> Self:
        failpoints.listen(ENQUEUED, _run_now)
        return self

    def __exit__(self, *error: object) -> None:
        failpoints.stop_listening(ENQUEUED, _run_now)

    def __call__(self, function: F) -> F:
        if not inspect.iscoroutinefunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        async def eagerly(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return eagerly  # type: ignore[return-value]


def _run_now(messages: Sequence[Message]) -> None:
    queue = memory.queue()
    if queue.eagerness >= DEEPEST:
        chain = chain_of(queue.running) if queue.running else "?"
        raise EndlessTasks(
            f"{DEEPEST} tasks run inside one another, by this chain: {chain}. Use "
            "run_queued() for tasks that enqueue tasks so deeply."
        )
    ids = {message.id for message in messages}
    for entry in list(commits.entries()):
        if any(message.id in ids for message in entry.messages):
            commits.send(entry)
    queue.eagerness += 1
    try:
        with out_of_loop():
            Run().at_once(ids)
    finally:
        queue.eagerness -= 1
