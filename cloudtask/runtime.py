"""Turns calls into messages and deliveries into calls."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from asgiref.sync import async_to_sync
from django.db import connections, transaction

from cloudtask import clock, codec, conf, failpoints, signals
from cloudtask.context import KILLED_ATTEMPTS, TaskContext, entered
from cloudtask.delivering import executions
from cloudtask.delivering.settling import Attempt, Outcome, Result, backoff_of, finish
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueError,
    PayloadLost,
    PermanentTaskFailure,
    TaskNotFound,
)
from cloudtask.message import Delivery, Enqueued, Message
from cloudtask.options import Options
from cloudtask.registry import Definition, Row, find
from cloudtask.sending import limits, outbox, payloads, uniqueness
from cloudtask.stores import AlreadyDone, store
from cloudtask.stores.transactions import apart, in_transaction, note_commit, translated

logger = logging.getLogger("cloudtask")

__all__ = [
    "Attempt",
    "Outcome",
    "Result",
    "awaited",
    "backoff_of",
    "enqueue",
    "enqueue_many",
    "execute",
    "finish",
    "leave",
    "make_message",
    "run",
    "watchers",
]

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
        return _enqueue_unique([message], options)[0]
    leave([message], options)
    return message.receipt


def enqueue_many(
    definition: Definition,
    options: Options,
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> list[Enqueued]:
    """As `enqueue` for many calls of a task; nothing is sent unless all can travel."""
    messages = _make_messages(definition, options, calls)
    if options.unique:
        return _enqueue_unique(messages, options)
    leave(messages, options)
    return [message.receipt for message in messages]


def _make_messages(
    definition: Definition,
    options: Options,
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
) -> list[Message]:
    """The messages of `calls`; an error says which of them it is about."""
    messages: list[Message] = []
    try:
        for call in calls:
            messages.append(make_message(definition, options, *call))
    except (TypeError, EnqueueError) as error:
        ours = isinstance(error, CloudTaskError)
        kind: type[Exception] = type(error) if ours else TypeError
        place = f"calls[{len(messages)}] of {definition.path}"
        raise kind(f"{place}: {error}") from error
    return messages


def make_message(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Message:
    """The message of one call, checked as far as it can be without the service."""
    definition.check_call(args, kwargs)
    created = clock.now()
    message_id = secrets.token_hex(16)
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


def _enqueue_unique(messages: Sequence[Message], options: Options) -> list[Enqueued]:
    """Enqueue those of whose key none waits; else the receipt is of the one that does.

    Key and outbox row commit together: a process that dies here leaves both, or none.
    """
    if options.small:
        named = [replace(m, name=str(m.unique), named=True) for m in messages]
        leave(named, options)
        return [message.receipt for message in named]
    receipts = _seen_waiting(messages, options)
    unseen = [message for message in messages if message.id not in receipts]
    if unseen:
        receipts.update(_claim_and_leave(unseen, options))
    return [receipts[message.id] for message in messages]


def _claim_and_leave(
    messages: Sequence[Message], options: Options
) -> dict[str, Enqueued]:
    receipts = {}
    ours: list[Message] = []
    with _claiming(options):
        # In one order everywhere, so that no two claimers wait for one another.
        for message in sorted(messages, key=lambda message: message.unique or ""):
            holder = uniqueness.claim(message)
            receipts[message.id] = holder or message.receipt
            if holder is None:
                ours.append(message)
        _leave(ours, replace(options, transactional=True))
    _announce(ours)
    return receipts


def _seen_waiting(messages: Sequence[Message], options: Options) -> dict[str, Enqueued]:
    """Receipts of messages that the open transaction itself, which a second one can't
    wait for, sees waiting."""
    if options.transactional is not False or not in_transaction(options.database):
        return {}
    seen = {message.id: uniqueness.waiting(message) for message in messages}
    return {message_id: receipt for message_id, receipt in seen.items() if receipt}


@contextmanager
def _claiming(options: Options) -> Iterator[None]:
    """The transaction in which unique keys are claimed: the caller's, unless it is not
    to matter. Raises EnqueueUnavailable when the database can't be reached."""
    alias, what = options.database, "Claiming a unique key"
    with translated(what, alias):
        if options.transactional is False:
            with apart(alias, what):
                yield
        else:
            with transaction.atomic(using=alias):
                yield


def _eta(options: Options, now: float) -> float | None:
    if options.countdown is not None:
        return now + options.countdown.total_seconds()
    return options.eta.timestamp() if options.eta is not None else None


def leave(messages: Sequence[Message], options: Options) -> None:
    """Send `messages` now, or with the commit of the open transaction.

    Raises the first EnqueueError; `failures` on it maps places in `messages` to all.
    """
    _leave(messages, options)
    _announce(messages)


def _leave(messages: Sequence[Message], options: Options) -> None:
    if not messages:
        return
    if options.small:
        if _is_transactional(options):
            outbox.send_on_commit(messages, options.database)
        else:
            outbox.send(messages)
    elif not _is_transactional(options):
        with payloads.resting(messages) as light:
            outbox.send(light)
    else:
        with payloads.resting(messages, joins=options.database) as light:
            outbox.add(light, options.database)


def _announce(messages: Sequence[Message]) -> None:
    if not messages:
        return
    if signals.task_enqueued.receivers:
        for message in messages:
            signals.task_enqueued.send_robust(sender=message.task, message=message)
    for watcher in watchers:
        watcher(messages)


def _is_transactional(options: Options) -> bool:
    if options.transactional is not None:
        return options.transactional
    return connections[options.database].in_atomic_block


def execute(message: Message, delivery: Delivery) -> Result:
    """Run the call that `message` carries, and make durable what must follow.

    Raises TaskNotFound when this version does not know the task, and EnqueueUnavailable
    when a store or Cloud Tasks can't be reached: nothing is settled then.
    """
    try:
        attempt = run(message, delivery)
    except TaskNotFound as error:
        return finish(_unknown(message, delivery, error))
    return finish(attempt)


def _unknown(message: Message, delivery: Delivery, error: TaskNotFound) -> Attempt:
    """The last attempt of a call whose task is unknown: it is to be kept.

    Raises `error` while Cloud Tasks will try again: a deploy may be under way.
    """
    definition = Definition(message.task, _is_unknown, Options())
    context = _context(message, delivery, definition)
    queue_tries = conf.settings().max_attempts(message.queue)
    if context.attempt < max(queue_tries, context.max_attempts or 0):
        raise error
    return Attempt(message, definition, context, error=error)


def _is_unknown(*args: Any, **kwargs: Any) -> None:
    """Stands for the function of a task that this version does not know."""


def run(message: Message, delivery: Delivery) -> Attempt:
    """Call the function once; what it raises is in the attempt.

    Raises TaskNotFound, and EnqueueUnavailable when a store can't be reached.
    """
    failpoints.reached("execute.received")
    definition = find(message.task)
    context = _context(message, delivery, definition)
    uniqueness.release(message)
    if context.is_late and store().note_start(message.id) > KILLED_ATTEMPTS:
        hopeless = PermanentTaskFailure(KILLED)
        return Attempt(message, definition, context, error=hopeless)
    with entered(context):
        if signals.task_started.receivers:
            signals.task_started.send_robust(sender=message.task, context=context)
        try:
            payload = payloads.payload_of(message)
        except (AlreadyDone, PayloadLost) as error:
            return Attempt(message, definition, context, error=error)
        try:
            args, kwargs = _arguments(payload, definition)
            failpoints.reached("execute.before_call")
            value = _called(message, definition, args, kwargs)
            failpoints.reached("execute.after_call")
            return Attempt(message, definition, context, value)
        except Exception as error:  # noqa: BLE001  whatever a task raises has an outcome
            return Attempt(message, definition, context, error=error)


def _context(
    message: Message, delivery: Delivery, definition: Definition
) -> TaskContext:
    limit = message.options.max_attempts or definition.options.max_attempts
    return TaskContext(
        id=message.id,
        task=message.task,
        queue=message.queue,
        name=message.name,
        attempt=message.attempts + delivery.retries + 1,
        max_attempts=limit or conf.settings().max_attempts(message.queue),
        created=message.created,
        due=message.eta or delivery.eta,
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
    if not message.options.atomic:
        return awaited(definition.function(*args, **kwargs))
    commits: list[int] = []
    value = None
    try:
        with transaction.atomic(using=message.options.database):
            note_commit(message.options.database, commits)
            executions.record(message)
            value = awaited(definition.function(*args, **kwargs))
            failpoints.reached("execute.before_commit")
    except Exception:
        if not commits:
            raise
        logger.exception(
            "A hook on the commit of task %s (%s) raised; the task has run, the hooks "
            "behind it are lost.",
            message.task,
            message.id,
        )
    return value


def awaited(value: Any) -> Any:
    """What a call came to, awaited here if it is asynchronous, which decorators may
    hide. Raises RuntimeError for one that was cancelled, as no task should be."""

    async def waited() -> Any:
        try:
            return await value
        except asyncio.CancelledError as error:
            raise RuntimeError("Something that it awaits was cancelled.") from error

    return async_to_sync(waited)() if inspect.iscoroutine(value) else value
