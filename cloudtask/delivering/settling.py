"""What follows from one run of a call: success, another try, or a failed task.

What must follow is durable before the delivery is acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from django.db import DatabaseError, Error, connections

from cloudtask import clock, conf, failpoints, signals
from cloudtask.context import TaskContext
from cloudtask.delivering import failures
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueUnavailable,
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
)
from cloudtask.message import Message
from cloudtask.options import Backoff, BackoffFunction, as_timedelta
from cloudtask.registry import Definition
from cloudtask.sending import limits, outbox
from cloudtask.stores import AlreadyDone, store

logger = logging.getLogger("cloudtask")

LONGEST_DELAY = timedelta(seconds=limits.HORIZON)


class Outcome(Enum):
    """How one delivery ended."""

    SUCCEEDED = "succeeded"
    DUPLICATE = "duplicate"  # it had succeeded before; nothing ran
    RETRIED = "retried"  # a successor is enqueued
    FAILED = "failed"  # Cloud Tasks is to try again
    EXHAUSTED = "exhausted"  # kept as a failed task

    @property
    def is_settled(self) -> bool:
        """Whether Cloud Tasks may forget the task: what must follow is durable."""
        return self is not Outcome.FAILED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a call: what the function returned, or what it raised."""

    message: Message
    definition: Definition
    context: TaskContext
    value: Any = None
    error: Exception | None = None

    @property
    def is_failure(self) -> bool:
        return self.error is not None and not isinstance(
            self.error, Retry | AlreadyDone
        )

    @property
    def is_last(self) -> bool:
        """Whether a failure ends the call: no attempt is left, or none would help."""
        return (
            isinstance(self.error, PermanentTaskFailure) or self.context.is_last_attempt
        )

    def __str__(self) -> str:
        return (
            f"{self.message.task} ({self.message.id}) on queue {self.message.queue!r}, "
            f"attempt {self.context.attempt}"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one delivery, and the message that succeeds it, if any."""

    outcome: Outcome
    attempt: Attempt
    successor: Message | None = None


def finish(attempt: Attempt) -> Result:
    """Make durable what must follow from `attempt`, and tell the signal.

    Raises EnqueueUnavailable when a store or Cloud Tasks can't be reached: the delivery
    must not be acknowledged then.
    """
    failpoints.reached("execute.before_settle")
    result = settle(attempt)
    failpoints.reached("execute.settled")
    if signals.task_finished.receivers:
        signals.task_finished.send_robust(
            sender=attempt.message.task,
            context=attempt.context,
            outcome=result.outcome,
            error=attempt.error,
        )
    return result


def settle(attempt: Attempt) -> Result:
    """Decide how a delivery ended; durable before it returns."""
    error = attempt.error
    if error is None:
        _tidy(attempt, _remove_remains)
        return Result(Outcome.SUCCEEDED, attempt)
    if isinstance(error, AlreadyDone):
        logger.warning("A duplicate delivery of %s: it had succeeded before.", attempt)
        _tidy(attempt, _remove_remains)
        return Result(Outcome.DUPLICATE, attempt)
    if isinstance(error, SingularTaskFailure):
        logger.info("Task %s is to be retried: %s", attempt, error)
    elif not isinstance(error, Retry):
        logger.error("Task %s failed.", attempt, exc_info=error)
    if attempt.is_last:
        return _exhausted(attempt, error)
    return _next(attempt, error)


def _next(attempt: Attempt, error: Exception) -> Result:
    """Another try: by a successor with a delay of ours, or by Cloud Tasks itself."""
    try:
        delay = _delay(attempt, error)
    except Exception:
        # The task's own error is logged; with the delay that it asks for, or that its
        # backoff function chooses, something is wrong: the queue's rule remains.
        logger.exception("No delay is known for the next attempt of %s.", attempt)
        return Result(Outcome.FAILED, attempt)
    if delay is _Choice.NEVER:
        return _exhausted(attempt, error)
    if delay is _Choice.OF_THE_QUEUE:
        return Result(Outcome.FAILED, attempt)
    return _again(attempt, delay)


class _Choice(Enum):
    NEVER = "never"  # the backoff function gives up
    OF_THE_QUEUE = "of the queue"


def _delay(attempt: Attempt, error: Exception) -> timedelta | _Choice:
    if isinstance(error, Retry) and error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    backoff = _backoff(attempt)
    if callable(backoff):
        chosen = backoff(error, attempt.context)
        if chosen is None:
            return timedelta(0) if isinstance(error, Retry) else _Choice.NEVER
        return as_timedelta(chosen, "What a backoff function returns")
    if isinstance(error, Retry):
        return backoff_of(attempt).delay(attempt.context.attempt)
    if backoff is not None and not conf.settings().retry_config:
        return backoff.delay(attempt.context.attempt)
    return _Choice.OF_THE_QUEUE


def _backoff(attempt: Attempt) -> Backoff | BackoffFunction | None:
    return attempt.message.options.backoff or attempt.definition.options.backoff


def backoff_of(attempt: Attempt) -> Backoff:
    """How long the service waits between attempts, as far as it is known here."""
    backoff = _backoff(attempt)
    if isinstance(backoff, Backoff):
        return backoff
    queue = conf.settings().queues.get(attempt.message.queue)
    return (queue.backoff if queue else None) or Backoff()


def _again(attempt: Attempt, delay: timedelta) -> Result:
    """Enqueue the successor; its name is the same however often this is tried."""
    if delay > LONGEST_DELAY:
        logger.warning("Cloud Tasks waits 30 days at most: %s will be early.", attempt)
    message = attempt.message
    successor = message.successor(
        now=clock.now(),
        delay=min(max(delay, timedelta(0)), LONGEST_DELAY),
        attempts=attempt.context.attempt,
    )
    if message.stored is not None:
        store().touch_payload(message.stored)
    failpoints.reached("execute.before_successor")
    outbox.send([successor])
    failpoints.reached("execute.after_successor")
    _tidy(attempt, outbox.forget)
    return Result(Outcome.RETRIED, attempt, successor)


def _exhausted(attempt: Attempt, error: Exception) -> Result:
    logger.error("Task %s is kept as failed: %s", attempt, error)
    try:
        _keep(attempt, error)
    except EnqueueUnavailable:
        # While the function ran, for an hour perhaps, the server may have closed the
        # connection. Another one may do.
        _drop_broken_connections()
        _keep(attempt, error)
    _tidy(attempt, outbox.forget)
    return Result(Outcome.EXHAUSTED, attempt)


def _keep(attempt: Attempt, error: Exception) -> None:
    failures.keep(attempt.message, attempt.definition, attempt.context, error)


def _remove_remains(message: Message) -> None:
    if message.stored is not None:
        failpoints.reached("store.before_finish")
        store().finish_payload(message.stored)
        failpoints.reached("store.after_finish")
    outbox.forget(message)


def _tidy(attempt: Attempt, remove: Callable[[Message], None]) -> None:
    """Remove what a call leaves behind. What must follow is durable: a failure here
    must not make it run again, and pruning and relays find what is left."""
    try:
        try:
            remove(attempt.message)
        except (CloudTaskError, DatabaseError):
            _drop_broken_connections()
            remove(attempt.message)
    except (CloudTaskError, DatabaseError) as error:
        logger.warning("The remains of %s were not removed: %s", attempt, error)


def _drop_broken_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            with suppress(Error):
                connection.close_if_unusable_or_obsolete()
