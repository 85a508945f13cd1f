"""Runs queued calls: `run_queued`, `arun_queued` and `eager`."""

from __future__ import annotations

import functools
import inspect
from asyncio import events
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
)

from asgiref.sync import sync_to_async

from cloudtask import failpoints
from cloudtask.iteration.steps import SENT, STEPS
from cloudtask.message import Message
from cloudtask.sending.enqueueing import ENQUEUED
from cloudtask.testruns import queued_calls, scheduled
from cloudtask.testruns.deliveries import Http
from cloudtask.testruns.faults import CrashPoint, Faults
from cloudtask.testruns.misfortune import Misfortune
from cloudtask.testruns.named import named
from cloudtask.testruns.queue_run import (
    EndlessTasks,
    Errors,
    QueueRun,
    Wanted,
    chain_of,
)
from cloudtask.testruns.report import Report
from cloudtask.transports import memory

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

__tracebackhide__ = True  # pytest ends at the line of the test

Via = Literal["direct", "http"]


def run_queued(
    *tasks: Nameable,
    queue: str | None = None,
    until: timedelta | float | datetime | None = None,
    limit: int = 1000,
    errors: Errors = "raise",
    faults: Faults | CrashPoint | None = None,
    via: Via = "direct",
    recursive: bool = True,
    freeze: bool = False,
    schedules: bool = True,
) -> Report:
    """Run the queued calls, on this thread and its database connections.

    If `tasks` or `queue` is given, only their calls run. Time is virtual: calls run at
    their eta, one after the other, without waiting. `until` is a duration from now or a
    moment: the clock stops there, and calls that are due later stay queued. With
    `freeze`, Django's `timezone.now()` returns virtual time. Calls that wait for a
    commit run as if it had happened.

    With `until`, tasks that have a `schedule` run at its times until then, unless
    `schedules` is false.

    `errors`: "raise" raises the first failure, with its own traceback, and the call
    stays queued unless this was its last attempt; "retry" follows the policy of task
    and queue to its end; "collect" records each failure once and continues.

    `faults` causes failures that Cloud Tasks can also cause. `via="http"` delivers
    through the real URL, middleware and verification; the view then keeps failures,
    retries and logs as in production. With `recursive=False`, calls that are enqueued
    during the run stay queued.

    Raises EndlessTasks once tasks have enqueued more than `limit` calls. Raises
    NotIdempotent if a second delivery caused by `faults` changed the database.
    """
    _check(errors, Errors, "errors")
    _check(via, Via, "via")
    if isinstance(faults, CrashPoint):
        faults = Faults(crash=faults)
    run = QueueRun(
        wanted=_wanted(tasks, queue),
        limit=limit,
        errors=errors,
        recursive=recursive,
        http=Http() if via == "http" else None,
        misfortune=Misfortune(faults, raises=errors == "raise") if faults else None,
    )
    run.stop_at = run.clock.moment(until)
    if until is not None and schedules:
        run.before = functools.partial(
            scheduled.push, run.clock.time, run.stop_at, run.wanted
        )
    with out_of_loop():
        return run.to_the_end(freeze=freeze)


class RunOptions(TypedDict, total=False):
    """The keywords of `run_queued`."""

    queue: str | None
    until: timedelta | float | datetime | None
    limit: int
    errors: Errors
    faults: Faults | CrashPoint | None
    via: Via
    recursive: bool
    freeze: bool
    schedules: bool


async def arun_queued(*tasks: Nameable, **options: Unpack[RunOptions]) -> Report:
    """`run_queued` for an asynchronous test.

    It runs on the thread that `sync_to_async` and the asynchronous ORM use, and so on
    their database connections.
    """
    report: Report = await sync_to_async(run_queued)(*tasks, **options)
    return report


def _check(value: str, known: Any, name: str) -> None:
    if value not in get_args(known):
        choices = " or ".join(map(repr, get_args(known)))
        raise ValueError(f"{name} must be {choices}, not {value!r}.")


def _wanted(tasks: Sequence[Nameable], queue: str | None) -> Wanted | None:
    if not tasks and queue is None:
        return None
    paths = {named(task).path for task in tasks}

    def wanted(message: Message) -> bool:
        return queue in (None, message.queue) and (
            not paths or queued_calls.task_of(message) in paths
        )

    return wanted


F = TypeVar("F", bound=Callable[..., Any])
DEEPEST = 40  # nested eager calls


class eager(ContextDecorator):
    """Inside the block, or the decorated function, `defer()` runs the call at once.

    The call is encoded and decoded first, as in production. A call that waits for a
    commit or an eta also runs at once, and `defer()` raises its error. All steps of an
    iteration run, also those that its handle enqueues, for example by `resume()`.
    `iterate()` raises the error of a row, as `run_queued()` does. Decorates `def` and
    `async def`.
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
        step sends run in the QueueRun that delivers that step.
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
    for entry in list(queued_calls.entries()):
        if any(message.id in ids for message in entry.messages):
            queued_calls.send(entry)
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
            QueueRun().at_once(ids)
    finally:
        queue.eagerness -= 1


@contextmanager
def out_of_loop() -> Iterator[None]:
    """Let asgiref run asynchronous tasks inside the block, also on a loop's thread.

    The loop is blocked until the block ends, so no loop is running for the called code.
    asgiref and Django would find the loop, and refuse.
    """
    loop = events._get_running_loop()
    if loop is None:
        yield
        return
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(loop)
