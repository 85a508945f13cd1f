"""Provides the context of the running task, for its code to read."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, overload

from cloudtask.exceptions import CloudTaskError

P = ParamSpec("P")
R = TypeVar("R")

# Extra attempts for calls whose last attempt was killed before it kept the failure,
# because a deploy may have been the cause.
KILLED_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """The running task.

    `attempt` counts from 1 and includes attempts before a `Retry`; `max_attempts` is
    None without a limit. `executions` and `previous_response` are as Cloud Tasks
    reports them: on HTTP targets, executions do not count 5xx answers. `created` and
    `due` are the unix seconds of `enqueued_at` and `eta`, which are computed on demand.
    `schedule` is the key of the schedule that has enqueued the call.
    """

    id: str
    task: str
    queue: str
    name: str
    attempt: int
    max_attempts: int | None
    created: float
    due: float | None = None
    retries: int = 0
    executions: int = 0
    previous_response: int | None = None
    retry_reason: str | None = None
    scheduled: float | None = None
    schedule: str | None = None
    shard_index: int | None = None
    iteration: Any = None
    cancellation: Callable[[], bool] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def enqueued_at(self) -> datetime:
        """The time when the call was enqueued, in UTC."""
        return datetime.fromtimestamp(self.created, UTC)

    @property
    def eta(self) -> datetime | None:
        """The time from which the call was due, in UTC; None if it is not known."""
        return datetime.fromtimestamp(self.due, UTC) if self.due else None

    @property
    def occurrence(self) -> datetime | None:
        """The moment for which a schedule has enqueued the call, in UTC, else None."""
        return None if self.scheduled is None else _moment(self.scheduled)

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel()` was called for this call, which goes on by itself.

        Looks into the store each time; False for a task without `cancellable`. Raises
        EnqueueUnavailable if the store can't be reached.
        """
        return self.cancellation is not None and self.cancellation()

    @property
    def is_late(self) -> bool:
        """Whether unrecorded deliveries have used up the attempts.

        Cloud Tasks also counts deliveries that the server did not answer.
        """
        return self.max_attempts is not None and self.attempt > self.max_attempts

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt is kept as a failed task."""
        return self.max_attempts is not None and self.attempt >= self.max_attempts


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


_current: ContextVar[TaskContext | None] = ContextVar("cloudtask_current", default=None)


@overload
def current(*, required: Literal[True]) -> TaskContext: ...
@overload
def current(*, required: bool = False) -> TaskContext | None: ...
def current(*, required: bool = False) -> TaskContext | None:
    """The context of the task that runs here; None in a plain call and elsewhere.

    With `required` it raises CloudTaskError in place of None.
    """
    context = _current.get()
    if context is None and required:
        raise CloudTaskError(
            "No task runs here, so there is no context. A plain call of a task, f(), "
            "has none. A delivery has one, also in run_queued() and eager()."
        )
    return context


class entered:
    """Make `context` the current one inside the block."""

    __slots__ = ("context", "token")

    def __init__(self, context: TaskContext) -> None:
        self.context = context

    def __enter__(self) -> TaskContext:
        self.token: Token[TaskContext | None] = _current.set(self.context)
        return self.context

    def __exit__(self, *error: object) -> None:
        _current.reset(self.token)


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Have `function` run in a copy of the context, so that all it sets ends with it.

    Django keeps language and time zone in context variables, too.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return copy_context().run(function, *args, **kwargs)

    return run
