"""Defines the errors of this library.

CloudTaskError
├── ConfigurationError      (also ImproperlyConfigured)
├── EnqueueError
│   ├── QueueNotFound
│   ├── DuplicateTask
│   ├── PayloadTooLarge
│   └── EnqueueUnavailable
├── PayloadError
│   ├── UnsupportedValue    (also TypeError)
│   ├── BadSignature
│   └── PayloadLost
├── TaskNotFound
├── UntrustedRequest
├── WorkerAborted           recorded as the error of an attempt
├── ResultError             raised by receipt.result()
│   ├── TaskFailed
│   ├── ResultNotKept
│   └── ResultExpired
├── Retry                   raised by tasks
├── PermanentTaskFailure    raised by tasks
└── SingularTaskFailure     raised by tasks
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType

from django.core.exceptions import ImproperlyConfigured

NOT_INSTALLED = (
    "'cloudtask' is not in INSTALLED_APPS: its tables and checks are missing, and "
    "tasks are not found by workers."
)
INSTALL = "Add 'cloudtask' to INSTALLED_APPS."


class CloudTaskError(Exception):
    """Base of all errors of this library."""


class ConfigurationError(CloudTaskError, ImproperlyConfigured):
    """A setting, or the place where a task is declared, is wrong.

    `problems` holds a sentence for each, where there are several.
    """

    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, problems: Iterable[str]) -> ConfigurationError:
        """One error for all `problems`."""
        error = cls("\n".join(problems := tuple(problems)))
        error.problems = problems
        return error


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Add the problems of a ConfigurationError in the block to `problems`, so that one
    error can name all of them."""
    try:
        yield
    except ConfigurationError as error:
        problems += error.problems or (str(error),)


class EnqueueError(CloudTaskError):
    """The task was not enqueued; the message names queue and task.

    `failures` is filled by `defer_many`: the place of each call that was not enqueued,
    with its own error.
    """

    failures: Mapping[int, EnqueueError] = MappingProxyType({})


class QueueNotFound(EnqueueError):
    """The queue does not exist, or was created less than a minute ago."""


class DuplicateTask(EnqueueError):
    """A task with this name is waiting, or ran a short while ago."""


class PayloadTooLarge(EnqueueError):
    """The call does not fit the limit that applies to it."""


class EnqueueUnavailable(EnqueueError):
    """Cloud Tasks or the store could not be reached; trying again may help."""


class PayloadError(CloudTaskError):
    """A payload, or a value that should travel in one, can't be used."""


class UnsupportedValue(PayloadError, TypeError):
    """A value can't travel; the message names its place in the arguments."""


class BadSignature(PayloadError):
    """The body was not sealed with a key of this project, was altered, or expired."""


class PayloadLost(PayloadError):
    """The stored payload that a task refers to is gone, and the task did not run."""


class TaskNotFound(CloudTaskError):
    """No task of this path is known to the running version."""


class UntrustedRequest(CloudTaskError):
    """The request can't be shown to come from the project's own Cloud Tasks queues."""


class WorkerAborted(CloudTaskError):
    """The server ended its worker while the task ran: gunicorn at its timeout."""


class ResultError(CloudTaskError):
    """There is no result to return; the message names the task."""


class TaskFailed(ResultError):
    """The task failed, and is kept as a failed task.

    The message has the error of its last attempt, `traceback` the text of the rest.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class ResultNotKept(ResultError):
    """The task has no `keep_result`, so its result was never stored."""


class ResultExpired(ResultError):
    """The time that `keep_result` gives is over, and the result was removed."""


class Retry(CloudTaskError):
    """Raise it in a task to run the same call again: not a failure.

    `Retry(60)`, `Retry(delay=60)`, `Retry("why", delay=60)`: the delay is a timedelta
    or seconds; without it the task's own backoff applies. Raises TypeError or
    ValueError for what is no delay.
    """

    def __init__(
        self,
        message: str | timedelta | float = "",
        *,
        delay: timedelta | float | None = None,
    ) -> None:
        text = message if isinstance(message, str) else ""
        if not isinstance(message, str):
            if delay is not None:
                raise TypeError("Retry() takes one delay, by position or by name.")
            delay = message
        super().__init__(text or "The task asked to run again.")
        self.delay = _checked_delay(delay)


def _checked_delay(delay: timedelta | float | None) -> timedelta | float | None:
    if delay is None:
        return None
    is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
    if not is_number and not isinstance(delay, timedelta):
        kind = type(delay).__name__  # its value may be a secret
        raise TypeError(f"The delay of Retry is a timedelta or seconds, not {kind}.")
    try:
        given = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        is_right = given >= timedelta(0)
    except (ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise ValueError("The delay of Retry is 0 or more seconds, and no infinity.")
    return delay


class PermanentTaskFailure(CloudTaskError):
    """Raise it in a task when trying again can't help: it is kept as failed."""


class SingularTaskFailure(CloudTaskError):
    """Raise it in a task to be retried without an error in the log."""
