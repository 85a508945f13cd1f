"""Run queued tasks in tests, and assert on them.

Under Django's test environment tasks stay in this process, and every call takes the
whole wire format: what can't travel fails the test.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from unittest.mock import ANY

from django.db import connections

from cloudtask import codec, envelope, outbox, runtime
from cloudtask.decorators import Deferrable
from cloudtask.message import OPTION_NAMES, Delivery, Message, Options
from cloudtask.registry import Definition, Row
from cloudtask.runtime import Outcome, Result
from cloudtask.stores import payloads
from cloudtask.transports import memory
from cloudtask.transports.memory import Waiting

ETA_TOLERANCE = timedelta(seconds=5)
Errors = Literal["raise", "retry", "collect"]


class EndlessTasks(AssertionError):
    """`run_queued` reached its limit: tasks keep enqueueing tasks."""


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """A call that waits in the queue, or for the commit of a transaction."""

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    name: str
    eta: datetime | None
    options: Options
    awaits_commit: bool = False

    def __str__(self) -> str:
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        due = f", eta {self.eta:%Y-%m-%d %H:%M:%S}" if self.eta else ""
        return f"{self.task}({', '.join(given)}) on {self.queue!r}{due}"


@dataclass(frozen=True, slots=True)
class Ran:
    """One attempt that `run_queued` made."""

    task: str
    id: str
    attempt: int
    outcome: Outcome
    value: Any = None
    error: Exception | None = None
    is_retried: bool = False


@dataclass(slots=True)
class Report:
    """What `run_queued` did, attempt by attempt, and what still waits."""

    attempts: list[Ran] = field(default_factory=list)
    remaining: list[QueuedTask] = field(default_factory=list)

    @property
    def ran(self) -> list[Ran]:
        """The attempts that succeeded."""
        return [one for one in self.attempts if one.error is None]

    @property
    def failed(self) -> list[Ran]:
        """The attempts that failed and were the last of their call."""
        return [
            one
            for one in self.attempts
            if one.outcome in (Outcome.FAILED, Outcome.EXHAUSTED) and not one.is_retried
        ]

    @property
    def retried(self) -> list[Ran]:
        """The attempts after which the call was, or is to be, tried again."""
        return [one for one in self.attempts if one.is_retried]

    def calls(self, task: Deferrable[Any, Any]) -> int:
        """How many attempts `task` had."""
        path = task._parts()[0].path
        return sum(ran.task == path for ran in self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)


class Clock:
    """Virtual time, in unix seconds: it only moves when something is due later."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def move_to(self, due: float) -> None:
        self.ahead += max(0.0, due - self.now())


def _entries() -> Iterator[tuple[Any, outbox.AfterCommit]]:
    """Our on-commit entries of all open connections, in order."""
    for connection in connections.all(initialized_only=True):
        for entry in connection.run_on_commit:
            if isinstance(entry[1], outbox.AfterCommit):
                yield connection, entry[1]


def _flush() -> None:
    """Do what the commit would: the test's own transaction never commits."""
    for connection, ours in list(_entries()):
        connection.run_on_commit = [
            entry for entry in connection.run_on_commit if entry[1] is not ours
        ]
        ours()


def _wanted(
    tasks: Sequence[Deferrable[Any, Any]], queue: str | None
) -> Callable[[Message], bool]:
    paths = {task._parts()[0].path for task in tasks}

    def wanted(message: Message) -> bool:
        return (not paths or message.task in paths) and queue in (None, message.queue)

    return wanted


def queued(
    task: Deferrable[Any, Any] | None = None, *, queue: str | None = None
) -> list[QueuedTask]:
    """The calls that wait, in the order in which they would run; those whose
    transaction is still open come last."""
    wanted = _wanted([task] if task is not None else [], queue)
    waiting = [
        _queued_task(entry.message)
        for entry in memory.queue()
        if wanted(entry.message)
    ]
    uncommitted = [
        _queued_task(message, awaits_commit=True)
        for _, entry in _entries()
        for message in entry.messages
        if wanted(message)
    ]
    return waiting + uncommitted


def _queued_task(message: Message, *, awaits_commit: bool = False) -> QueuedTask:
    args, kwargs = codec.loads_call(payloads.payload_of(message))
    return QueuedTask(
        id=message.id,
        task=message.task,
        args=args,
        kwargs=kwargs,
        queue=message.queue,
        name=message.name,
        eta=datetime.fromtimestamp(message.eta, UTC) if message.eta else None,
        options=message.options,
        awaits_commit=awaits_commit,
    )


def run_queued(
    *tasks: Deferrable[Any, Any],
    queue: str | None = None,
    until: timedelta | datetime | None = None,
    limit: int = 1000,
    errors: Errors = "raise",
    recursive: bool = True,
) -> Report:
    """Run what is queued, on this thread and its database connections.

    Only `tasks`, or those on `queue`, when given. Time is virtual: calls run at their
    eta, one after the other, without waiting; `until`, a duration from now or a moment,
    stops the clock there. Calls that wait for a commit run as if it had come.

    `errors`: "raise" lets the first failure through, with its own traceback; "retry"
    follows the policy of task and queue to its end; "collect" notes each failure in the
    report and goes on. With `recursive=False` calls enqueued meanwhile stay queued.
    Raises EndlessTasks after `limit` attempts.
    """
    _flush()
    run = _Run(_wanted(tasks, queue), limit, errors, recursive)
    run.stop_at = _moment(until, run.clock.now())
    return run.to_the_end()


def _moment(until: timedelta | datetime | None, now: float) -> float:
    if until is None:
        return float("inf")
    if isinstance(until, datetime):
        return until.timestamp()
    return now + until.total_seconds()


class _Run:
    """One call of `run_queued`."""

    def __init__(
        self,
        wanted: Callable[[Message], bool],
        limit: int,
        errors: Errors,
        recursive: bool,
    ) -> None:
        self.wanted = wanted
        self.limit = limit
        self.errors = errors
        self.recursive = recursive
        self.clock = Clock()
        self.stop_at = float("inf")
        self.report = Report()
        self.newest = memory.queue().pushed

    def to_the_end(self) -> Report:
        waiting = memory.queue()
        skipped: list[Waiting] = []
        try:
            while (entry := waiting.pop()) is not None:
                if entry.due > self.stop_at:
                    skipped.append(entry)
                    break
                if not self._may_run(entry):
                    skipped.append(entry)
                    continue
                self._run(entry)
                _flush()
        finally:
            waiting.put_back(skipped)
        self.report.remaining = queued()
        return self.report

    def _may_run(self, entry: Waiting) -> bool:
        is_new = entry.order > self.newest and not entry.retries
        return self.wanted(entry.message) and (self.recursive or not is_new)

    def _run(self, entry: Waiting) -> None:
        if len(self.report.attempts) >= self.limit:
            memory.queue().put_back([entry])
            raise EndlessTasks(
                f"{self.limit} attempts were made and {entry.message.task} is still "
                "queued: do tasks defer one another for ever? If not, raise limit=."
            )
        self.clock.move_to(entry.due)
        message = envelope.unseal(entry.body, now=self.clock.now())
        attempt = runtime.run(message, Delivery(retries=entry.retries))
        if self.errors == "raise" and attempt.error and attempt.is_failure:
            if not attempt.is_last:
                self._put_back(entry, entry.due)
            raise attempt.error
        self._note(entry, runtime.finish(attempt))

    def _note(self, entry: Waiting, result: Result) -> None:
        attempt = result.attempt
        retries = result.outcome is Outcome.FAILED and self.errors == "retry"
        self.report.attempts.append(
            Ran(
                task=attempt.message.task,
                id=attempt.message.id,
                attempt=attempt.context.attempt,
                outcome=result.outcome,
                value=attempt.value,
                error=attempt.error,
                is_retried=retries or result.outcome is Outcome.RETRIED,
            )
        )
        if retries:
            delay = runtime.backoff_of(attempt).delay(entry.retries + 1)
            self._put_back(entry, self.clock.now() + delay.total_seconds())

    def _put_back(self, entry: Waiting, due: float) -> None:
        again = replace(entry, due=due, retries=entry.retries + 1)
        memory.queue().put_back([again])


@contextmanager
def eager() -> Iterator[None]:
    """Inside the block, or the decorated function, `defer()` runs the call at once.

    The call takes the whole wire format first; one that awaits a commit or an eta runs
    at once too.
    """

    def run_now(messages: Sequence[Message]) -> None:
        ids = {message.id for message in messages}
        _flush()
        _Run(lambda message: message.id in ids, len(ids) * 100, "raise", True).to_the_end()

    runtime.watchers.append(run_now)
    try:
        yield
    finally:
        runtime.watchers.remove(run_now)


def _matches(
    wanted: Deferrable[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[QueuedTask], bool]:
    definition, options, subject = wanted._parts()

    def matches(call: QueuedTask) -> bool:
        if call.task != definition.path or not _same_options(definition, options, call):
            return False
        return _same_arguments(definition, (*subject, *args), kwargs, call)

    return matches


def _same_options(definition: Definition, wanted: Options, call: QueuedTask) -> bool:
    for name in OPTION_NAMES:
        value = getattr(wanted, name)
        if value == getattr(definition.options, name) or name in ("countdown", "eta"):
            continue
        if getattr(call.options, name) != value:
            return False
    eta = wanted.eta
    if wanted.countdown is not None:
        eta = datetime.now(UTC) + wanted.countdown
    if eta is None:
        return True
    return call.eta is not None and abs(call.eta - eta) <= ETA_TOLERANCE


def _same_arguments(
    definition: Definition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: QueuedTask,
) -> bool:
    """Whether every argument that is given here is as it is in the call."""
    wanted = definition.signature.bind_partial(*args, **kwargs).arguments
    found = definition.signature.bind(*call.args, **call.kwargs)
    found.apply_defaults()
    return all(
        name in found.arguments and _same(value, found.arguments[name])
        for name, value in wanted.items()
    )


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(found, Row):
        return wanted == ANY or (isinstance(wanted, found.model) and wanted.pk == found.pk)
    return bool(wanted == found)


def assert_enqueued(
    task: Deferrable[Any, Any], *args: Any, count: int | None = None, **kwargs: Any
) -> list[QueuedTask]:
    """Assert that a call of `task` is queued, and return those that match.

    Arguments that are left out may be anything, as may `unittest.mock.ANY`; options
    given by `.using()` must agree, an eta within five seconds. `count` asks for exactly
    so many; without it one or more will do.
    """
    matches = _matches(task, args, kwargs)
    calls = queued()
    found = [call for call in calls if matches(call)]
    if (count is None and found) or count == len(found):
        return found
    wanted = _described(task, args, kwargs)
    times = "was not enqueued" if count is None else (
        f"was enqueued {len(found)} times, not {count}"
    )
    raise AssertionError(f"{wanted} {times}. {_listing(calls, task)}")


def assert_not_enqueued(
    task: Deferrable[Any, Any], *args: Any, **kwargs: Any
) -> None:
    """Assert that no call of `task` with these arguments and options is queued."""
    matches = _matches(task, args, kwargs)
    calls = queued()
    if any(matches(call) for call in calls):
        wanted = _described(task, args, kwargs)
        raise AssertionError(f"{wanted} was enqueued. {_listing(calls, task)}")


def _described(
    task: Deferrable[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    definition, options, _ = task._parts()
    given = [repr(value) for value in args]
    given += [f"{name}={value!r}" for name, value in kwargs.items()]
    chosen = [
        f"{name}={getattr(options, name)!r}"
        for name in OPTION_NAMES
        if getattr(options, name) != getattr(definition.options, name)
    ]
    using = f".using({', '.join(chosen)})" if chosen else ""
    return f"{definition.path}{using}({', '.join(given)})"


def _listing(calls: Sequence[QueuedTask], task: Deferrable[Any, Any]) -> str:
    """What is queued instead, the nearest first."""
    if not calls:
        return "Nothing is queued."
    path = task._parts()[0].path

    def distance(call: QueuedTask) -> float:
        return -difflib.SequenceMatcher(None, path, call.task).ratio()

    lines = [f"  {call}" for call in sorted(calls, key=distance)[:20]]
    more = f"\n  ... and {len(calls) - 20} more" if len(calls) > 20 else ""
    return "Queued:\n" + "\n".join(lines) + more
