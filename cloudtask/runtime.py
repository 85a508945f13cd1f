"""Turns calls into messages and deliveries into calls."""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DatabaseError, connections, transaction

from cloudtask import (
    clock,
    codec,
    conf,
    executions,
    failpoints,
    failures,
    limits,
    outbox,
    signals,
    uniqueness,
)
from cloudtask.context import TaskContext, entered
from cloudtask.exceptions import (
    CloudTaskError,
    PayloadLost,
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
)
from cloudtask.message import (
    Backoff,
    BackoffFunction,
    Delivery,
    Enqueued,
    Message,
    Options,
    as_timedelta,
)
from cloudtask.registry import Definition, Row, find
from cloudtask.stores import AlreadyDone, payloads, store

logger = logging.getLogger("cloudtask")

KILLED = (
    "It was not run again: attempts beyond its last one neither returned nor raised; "
    "they were killed, or ran into their deadline."
)

# Called with the messages that were just enqueued; what one raises reaches the caller.
watchers: list[Callable[[Sequence[Message]], None]] = []


def enqueue(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Enqueued:
    """Have `definition` called once with these arguments, later.

    Raises TypeError when the function does not take them, UnsupportedValue when one
    can't travel, else another EnqueueError.
    """
    message = make_message(definition, options, args, kwargs)
    if message.unique is not None:
        return _enqueue_unique(message)
    leave([message], options)
    return message.receipt


def enqueue_many(
    definition: Definition,
    options: Options,
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> list[Enqueued]:
    """As `enqueue` for many calls of a task; nothing is sent unless all can travel."""
    messages = [make_message(definition, options, *call) for call in calls]
    if options.unique:
        return [_enqueue_unique(message) for message in messages]
    leave(messages, options)
    return [message.receipt for message in messages]


def make_message(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Message:
    """The message of one call, checked as far as it can be without the service."""
    definition.check_call(args, kwargs)
    created = clock.now()
    message_id = uuid.uuid4().hex
    message = Message(
        id=message_id,
        task=definition.path,
        queue=options.queue,
        # A random id leads the name: prefixes that are alike slow the service down.
        name=message_id if options.name is None else options.name,
        named=options.name is not None,
        payload=codec.dumps_call(
            args, kwargs, wipe_related_caches=options.wipe_related_caches
        ),
        created=created,
        eta=_eta(options, created),
        unique=uniqueness.key_of(definition, options, args, kwargs),
        options=options,
    )
    limits.check(message, created)
    return message


def _enqueue_unique(message: Message) -> Enqueued:
    """Enqueue unless a message of the same key waits: then the receipt is of that."""
    if message.options.small:
        message = replace(message, name=str(message.unique), named=True)
        leave([message], message.options)
        return message.receipt
    with transaction.atomic(using=message.options.database):
        waiting = uniqueness.claim(message)
        if waiting is None:
            leave([message], message.options)
    return waiting or message.receipt


def _eta(options: Options, now: float) -> float | None:
    if options.countdown is not None:
        return now + options.countdown.total_seconds()
    return options.eta.timestamp() if options.eta is not None else None


def leave(messages: Sequence[Message], options: Options) -> None:
    """Send `messages` now, or with the commit of the open transaction.

    Raises the first EnqueueError; `failures` on it maps places in `messages` to all.
    """
    if not messages:
        return
    if not _is_transactional(options):
        outbox.send(payloads.lightened(messages))
    elif options.small:
        outbox.send_on_commit(messages, options.database)
    else:
        outbox.add(payloads.lightened(messages), options.database)
    if signals.task_enqueued.receivers:
        for message in messages:
            signals.task_enqueued.send_robust(sender=message.task, message=message)
    for watcher in watchers:
        watcher(messages)


def _is_transactional(options: Options) -> bool:
    if options.transactional is not None:
        return options.transactional
    return connections[options.database].in_atomic_block


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


def execute(message: Message, delivery: Delivery) -> Result:
    """Run the call that `message` carries, and make durable what must follow.

    Raises TaskNotFound when this version does not know the task, and EnqueueUnavailable
    when a store or Cloud Tasks can't be reached: nothing is settled then.
    """
    return finish(run(message, delivery))


def finish(attempt: Attempt) -> Result:
    """Make durable what must follow from `attempt`, and tell the signal."""
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


def run(message: Message, delivery: Delivery) -> Attempt:
    """Call the function once; what it raises is in the attempt."""
    failpoints.reached("execute.received")
    definition = find(message.task)
    context = _context(message, delivery, definition)
    attempt = Attempt(message, definition, context)
    if context.is_beyond_hope:
        return replace(attempt, error=PermanentTaskFailure(KILLED))
    uniqueness.release(message)
    with entered(context):
        if signals.task_started.receivers:
            signals.task_started.send_robust(sender=message.task, context=context)
        try:
            payload = payloads.payload_of(message)
        except (AlreadyDone, PayloadLost) as error:
            return replace(attempt, error=error)
        try:
            args, kwargs = _arguments(payload, definition)
            failpoints.reached("execute.before_call")
            value = _called(message, definition, args, kwargs)
            failpoints.reached("execute.after_call")
            return replace(attempt, value=value)
        except Exception as error:  # noqa: BLE001  whatever a task raises has an outcome
            return replace(attempt, error=error)


def _context(
    message: Message, delivery: Delivery, definition: Definition
) -> TaskContext:
    limit = message.options.max_attempts or definition.options.max_attempts
    eta = message.eta or delivery.eta
    return TaskContext(
        id=message.id,
        task=message.task,
        queue=message.queue,
        name=message.name,
        attempt=message.attempts + delivery.retries + 1,
        max_attempts=limit or conf.settings().max_attempts(message.queue),
        enqueued_at=datetime.fromtimestamp(message.created, UTC),
        eta=datetime.fromtimestamp(eta, UTC) if eta else None,
        retries=delivery.retries,
        executions=delivery.executions,
        previous_response=delivery.previous_response,
        retry_reason=delivery.retry_reason,
    )


def _arguments(
    payload: bytes, definition: Definition
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = codec.loads_call(payload)
    if definition.has_subject and args and isinstance(args[0], Row):
        args = (args[0].load(), *args[1:])
    return args, kwargs


def _called(
    message: Message,
    definition: Definition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    function = definition.function
    if definition.is_async:
        function = async_to_sync(function)
    if not message.options.atomic:
        return _awaited(function(*args, **kwargs))
    with transaction.atomic(using=message.options.database):
        executions.record(message)
        return _awaited(function(*args, **kwargs))


def _awaited(value: Any) -> Any:
    """What a call came to, also where a decorator hides that it is asynchronous."""

    async def waited() -> Any:
        return await value

    return async_to_sync(waited)() if inspect.iscoroutine(value) else value


def settle(attempt: Attempt) -> Result:
    """Decide how a delivery ended; durable before it returns."""
    error = attempt.error
    if error is None:
        _tidy(attempt)
        return Result(Outcome.SUCCEEDED, attempt)
    if isinstance(error, AlreadyDone):
        logger.warning("A duplicate delivery of %s: it had succeeded before.", attempt)
        _tidy(attempt)
        return Result(Outcome.DUPLICATE, attempt)
    if isinstance(error, Retry):
        return _again(attempt, _asked_delay(attempt, error))
    if isinstance(error, SingularTaskFailure):
        logger.info("Task %s is to be retried: %s", attempt, error)
    else:
        logger.error("Task %s failed.", attempt, exc_info=error)
    return _after_failure(attempt, error)


def _after_failure(attempt: Attempt, error: Exception) -> Result:
    if attempt.is_last:
        return _exhausted(attempt, error)
    backoff = _backoff(attempt)
    if callable(backoff):
        delay = backoff(error, attempt.context)
        if delay is None:
            return _exhausted(attempt, error)
        return _again(attempt, as_timedelta(delay, "What backoff returns"))
    if backoff is not None and not conf.settings().retry_config:
        return _again(attempt, backoff.delay(attempt.context.attempt))
    return Result(Outcome.FAILED, attempt)


def _backoff(attempt: Attempt) -> Backoff | BackoffFunction | None:
    return attempt.message.options.backoff or attempt.definition.options.backoff


def _asked_delay(attempt: Attempt, error: Retry) -> timedelta:
    if error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    backoff = _backoff(attempt)
    if callable(backoff):
        chosen = backoff(error, attempt.context)
        return as_timedelta(chosen or 0, "What backoff returns")
    return backoff_of(attempt).delay(attempt.context.attempt)


def backoff_of(attempt: Attempt) -> Backoff:
    """How long the service waits between attempts, as far as it is known here."""
    backoff = _backoff(attempt)
    if isinstance(backoff, Backoff):
        return backoff
    queue = conf.settings().queues.get(attempt.message.queue)
    return (queue.backoff if queue else None) or Backoff()


def _again(attempt: Attempt, delay: timedelta) -> Result:
    """Enqueue the successor; its name is the same however often this is tried."""
    if attempt.context.is_last_attempt and attempt.error is not None:
        return _exhausted(attempt, attempt.error)
    successor = attempt.message.successor(
        now=clock.now(),
        delay=max(delay, timedelta(0)),
        attempts=attempt.context.attempt,
    )
    failpoints.reached("execute.before_successor")
    outbox.send([successor])
    failpoints.reached("execute.after_successor")
    outbox.forget(attempt.message)
    return Result(Outcome.RETRIED, attempt, successor)


def _exhausted(attempt: Attempt, error: Exception) -> Result:
    logger.error("Task %s is kept as failed: %s", attempt, error)
    failures.keep(attempt.message, attempt.definition, attempt.context, error)
    outbox.forget(attempt.message)
    return Result(Outcome.EXHAUSTED, attempt)


def _tidy(attempt: Attempt) -> None:
    """Remove what a call leaves behind. It has succeeded: a failure here must not make
    it run again, and pruning finds what is left."""
    message = attempt.message
    if message.stored is None and not message.outboxed:
        return
    try:
        failpoints.reached("store.before_finish")
        if message.stored is not None:
            store().finish_payload(message.stored)
        outbox.forget(message)
    except (CloudTaskError, DatabaseError) as error:
        logger.warning("The remains of %s were not removed: %s", attempt, error)
