"""Decides what follows from an attempt: success, another attempt, or a failed task.

Everything that must follow is durable before the delivery is acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from functools import partial

from django.db import DatabaseError, Error, connections

from cloudtask import clock, conf, failpoints, quotas
from cloudtask.chains import handing
from cloudtask.delivering import failed, marks, results, telling
from cloudtask.delivering.calls import Attempt, Call, backoff_of, service_backoff_of
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueUnavailable,
    Retry,
    SingularTaskFailure,
)
from cloudtask.message import Message
from cloudtask.options import Backoff, as_timedelta
from cloudtask.sending import outbox
from cloudtask.sending.enqueueing import send
from cloudtask.stores import AlreadyDone, CallCancelled, CallSkipped, store

logger = logging.getLogger("cloudtask")

LONGEST_DELAY = timedelta(seconds=quotas.HORIZON)


class Outcome(Enum):
    """How one delivery ended."""

    SUCCEEDED = "succeeded"
    DUPLICATE = "duplicate"  # an earlier delivery had succeeded; nothing ran
    CANCELLED = "cancelled"  # it did not begin, or is not tried again
    SKIPPED = "skipped"  # an earlier call of its schedule was running
    RETRIED = "retried"  # a successor is enqueued
    FAILED = "failed"  # Cloud Tasks is to try again
    POSTPONED = "postponed"  # the same, after a SingularTaskFailure: no alarm
    EXHAUSTED = "exhausted"  # stored as a failed task
    # Of signals only: nothing was made durable, so Cloud Tasks is to try again.
    UNSETTLED = "unsettled"

    @property
    def is_settled(self) -> bool:
        """Whether Cloud Tasks may forget the task: what must follow is durable."""
        return self not in (Outcome.FAILED, Outcome.POSTPONED, Outcome.UNSETTLED)


def finish(attempt: Attempt) -> Outcome:
    """Make durable what must follow from `attempt`.

    Raises EnqueueUnavailable when a store or Cloud Tasks can't be reached. The delivery
    must not be acknowledged then.
    """
    failpoints.reached("execute.before_settle")
    outcome = _settle(attempt)
    if attempt.call.message.alone:
        _tidy(attempt, partial(_end_alone, attempt.call, outcome))
    failpoints.reached("execute.settled")
    return outcome


def _end_alone(call: Call, outcome: Outcome, message: Message) -> None:
    """Let the next call of a schedule begin, or keep it waiting for another attempt."""
    if not outcome.is_settled:
        backoff = service_backoff_of(message, call.definition)
        marks.keep_alone(message, backoff.delay(call.context.attempt))
    elif outcome not in (Outcome.RETRIED, Outcome.SKIPPED):
        marks.end_alone(message)


def _settle(attempt: Attempt) -> Outcome:
    error, call = attempt.error, attempt.call
    if error is None:
        _follow(attempt)
        _tidy(attempt, _remove_remains)
        return Outcome.SUCCEEDED
    if isinstance(error, CallCancelled) or _is_cancelled(attempt):
        logger.info("Task %s is cancelled, and is not tried again.", call)
        _insisting(partial(telling.tell_cancelled, attempt.call.message))
        _tidy(attempt, _remove_remains)
        return Outcome.CANCELLED
    if isinstance(error, CallSkipped):
        logger.info("Task %s is skipped: an earlier call still runs.", call)
        _tidy(attempt, _remove_remains)
        return Outcome.SKIPPED
    if isinstance(error, AlreadyDone):
        logger.warning("A duplicate delivery of %s: it had succeeded before.", call)
        _tidy(attempt, _remove_remains)
        return Outcome.DUPLICATE
    if attempt.is_last:
        return _exhausted(attempt, error)
    return _next(attempt, error)


def _is_cancelled(attempt: Attempt) -> bool:
    """Whether a call that did not succeed was cancelled while it ran."""
    if isinstance(attempt.error, AlreadyDone):
        return False
    look = attempt.call.context.cancellation
    return look is not None and look()


def _next(attempt: Attempt, error: BaseException) -> Outcome:
    """Another attempt: by a successor with our delay, or by Cloud Tasks itself."""
    try:
        delay = _delay(attempt, error)
    except Exception:
        # The delay that the task asks for, or its backoff function, is wrong. The rule
        # of the queue remains.
        logger.exception("No delay is known for the next attempt of %s.", attempt.call)
        delay = _Choice.OF_THE_QUEUE
    if delay is _Choice.NEVER:
        return _exhausted(attempt, error)
    _log_retried(attempt, error)
    if delay is _Choice.OF_THE_QUEUE:
        is_expected = isinstance(error, SingularTaskFailure)
        return Outcome.POSTPONED if is_expected else Outcome.FAILED
    return _again(attempt, delay)


def _log_retried(attempt: Attempt, error: BaseException) -> None:
    """Log a failure that is tried again, below the level that reporters count."""
    if isinstance(error, Retry):
        return
    if isinstance(error, SingularTaskFailure):
        logger.info("Task %s is to be retried: %s", attempt.call, error)
        return
    level = logging.ERROR if conf.settings().report_retries else logging.WARNING
    _log(level, "Task %s failed, and is tried again.", attempt, error)


def _log(level: int, text: str, attempt: Attempt, error: BaseException) -> None:
    """Log `error` with its traceback; the record names the call, not its arguments."""
    call = attempt.call
    trace = (type(error), error, error.__traceback__)
    logger.log(level, text, str(call), exc_info=trace, extra=call.facts)


class _Choice(Enum):
    NEVER = "never"  # the backoff function returned None
    OF_THE_QUEUE = "of the queue"


def _delay(attempt: Attempt, error: BaseException) -> timedelta | _Choice:
    if isinstance(error, Retry) and error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    message, definition = attempt.call.message, attempt.call.definition
    context = attempt.call.context
    backoff = backoff_of(message, definition)
    if backoff is not None and not isinstance(backoff, Backoff):
        chosen = backoff(error, context)
        if chosen is None:
            return timedelta(0) if isinstance(error, Retry) else _Choice.NEVER
        return as_timedelta(chosen, "What a backoff function returns")
    if isinstance(error, Retry):
        return service_backoff_of(message, definition).delay(context.attempt)
    if backoff is not None and not conf.settings().retry_config:
        return backoff.delay(context.attempt)
    return _Choice.OF_THE_QUEUE


def _again(attempt: Attempt, delay: timedelta) -> Outcome:
    """Enqueue the successor; its name is the same however often this is tried."""
    call = attempt.call
    if delay > LONGEST_DELAY:
        logger.warning("Cloud Tasks waits 30 days at most: %s will be early.", call)
    successor = call.message.successor(
        now=clock.now(),
        delay=min(max(delay, timedelta(0)), LONGEST_DELAY),
        attempts=call.context.attempt,
    )
    if successor.stored is not None:
        store().touch_payload(successor.stored)
    failpoints.reached("execute.before_successor")
    send([successor])
    failpoints.reached("execute.after_successor")
    _tidy(attempt, outbox.forget)
    if call.message.alone:
        _tidy(attempt, partial(marks.keep_alone, wait=delay))
    return Outcome.RETRIED


def _exhausted(attempt: Attempt, error: BaseException) -> Outcome:
    _log(logging.ERROR, "Task %s failed, and is kept as failed.", attempt, error)
    # While the function ran, for an hour perhaps, the server may have closed the
    # connection. A new one may work.
    _insisting(partial(failed.save, attempt.call, error))
    _insisting(partial(telling.tell_failure, attempt.call.message, error))
    _tidy(attempt, outbox.forget)
    return Outcome.EXHAUSTED


def _follow(attempt: Attempt) -> None:
    """Keep the result, and hand the value on to the rest of the chain.

    An atomic call has done so in its transaction. A redelivery repeats what fails here,
    and the function with it.
    """
    returned, message = attempt.returned, attempt.call.message
    if returned is None or message.options.atomic:
        return
    if returned.result is not None:
        failpoints.reached("result.before_save")
        _insisting(partial(results.keep, message, returned.result))
        failpoints.reached("result.after_save")
    if returned.rest is not None and returned.handed is not None:
        _insisting(partial(handing.hand_over, returned.rest, returned.handed))


def _insisting(work: Callable[[], None]) -> None:
    """Do `work`, once more if a connection was lost while the function ran."""
    try:
        work()
    except EnqueueUnavailable:
        _drop_broken_connections()
        work()


def _remove_remains(message: Message) -> None:
    if message.stored is not None:
        failpoints.reached("store.before_finish")
        store().finish_payload(message.stored)
        failpoints.reached("store.after_finish")
    if message.outboxed:
        outbox.forget(message)


def _tidy(attempt: Attempt, remove: Callable[[Message], None]) -> None:
    """Delete what a call leaves in stores.

    Everything that must follow is durable now, so a failure here is only logged.
    Pruning and relays find the rest.
    """
    message = attempt.call.message
    try:
        try:
            remove(message)
        except (CloudTaskError, DatabaseError):
            _drop_broken_connections()
            remove(message)
    except (CloudTaskError, DatabaseError) as error:
        logger.warning("The remains of %s were not deleted: %s", attempt.call, error)


def _drop_broken_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            with suppress(Error):
                connection.close_if_unusable_or_obsolete()
