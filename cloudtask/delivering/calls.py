"""Makes the call of a delivery, and attempts it.

A delivery passes through frozen values, each made by one stage and taken by the next:
an `Arrival`, a `Call`, an `Attempt`, and the `Outcome` that `settling` decides on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django.db import transaction

from cloudtask import codec, conf, failpoints, signals
from cloudtask.context import KILLED_ATTEMPTS, TaskContext, entered
from cloudtask.delivering import executions
from cloudtask.exceptions import (
    PayloadLost,
    PermanentTaskFailure,
    Retry,
    TaskNotFound,
)
from cloudtask.message import Arrival, Message
from cloudtask.options import Backoff, BackoffFunction, Options
from cloudtask.registry import Definition, Subject, find
from cloudtask.sending import payloads, uniqueness
from cloudtask.sending.on_commit import look
from cloudtask.stores import AlreadyDone, store
from cloudtask.stores.transactions import note_commit

logger = logging.getLogger("cloudtask")

KILLED = (
    "It was not run again: attempts beyond its last one neither returned nor raised; "
    "they were killed, or ran into their deadline."
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is about to be attempted; `refusal` says why it must not be."""

    message: Message
    definition: Definition
    context: TaskContext
    refusal: Exception | None = None

    def __str__(self) -> str:
        return (
            f"{self.message.task} ({self.message.id}) on queue {self.message.queue!r}, "
            f"attempt {self.context.attempt}"
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call after one attempt: what the function returned, or what it raised."""

    call: Call
    value: Any = field(default=None, repr=False)
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
            isinstance(self.error, PermanentTaskFailure)
            or self.call.context.is_last_attempt
        )


def call_of(arrival: Arrival) -> Call:
    """The call that a message carries.

    Raises TaskNotFound when this version does not know the task and Cloud Tasks will
    try again: a deploy may be under way. After the last attempt the call has a
    `refusal`.
    """
    message = arrival.message
    refusal: Exception | None = None
    try:
        definition = find(message.task)
    except TaskNotFound as error:
        definition = Definition(message.task, _is_unknown, Options())
        refusal = error
    context = _context(arrival, definition)
    if refusal is not None and context.attempt < max(
        conf.settings().max_attempts(message.queue), context.max_attempts or 0
    ):
        raise refusal
    return Call(message, definition, context, refusal)


def _is_unknown(*args: Any, **kwargs: Any) -> None:
    """Stands for the function of a task that this version does not know."""


def _context(arrival: Arrival, definition: Definition) -> TaskContext:
    message, delivery = arrival.message, arrival.delivery
    return TaskContext(
        id=message.id,
        task=message.task,
        queue=message.queue,
        name=message.name,
        attempt=message.attempts + delivery.retries + 1,
        max_attempts=max_attempts_of(message, definition),
        created=message.created,
        due=message.eta or delivery.eta,
        retries=delivery.retries,
        executions=delivery.executions,
        previous_response=delivery.previous_response,
        retry_reason=delivery.retry_reason,
    )


def max_attempts_of(message: Message, definition: Definition | None) -> int:
    """How often the call is attempted: as it says, else its task, else its queue."""
    limit = message.options.max_attempts
    if limit is None and definition is not None:
        limit = definition.options.max_attempts
    return limit or conf.settings().max_attempts(message.queue)


def backoff_of(
    message: Message, definition: Definition | None
) -> Backoff | BackoffFunction | None:
    """The backoff of the call, else of its task; None leaves it to the queue."""
    if message.options.backoff is not None or definition is None:
        return message.options.backoff
    return definition.options.backoff


def service_backoff_of(message: Message, definition: Definition | None) -> Backoff:
    """How long the service waits between attempts, as far as the settings tell."""
    backoff = backoff_of(message, definition)
    if isinstance(backoff, Backoff):
        return backoff
    queue = conf.settings().queues.get(message.queue)
    return (queue.backoff if queue else None) or Backoff()


def attempted(call: Call) -> Attempt:
    """Call the function once; the attempt has what it returned, or what it raised.

    Raises EnqueueUnavailable when a store can't be reached.
    """
    failpoints.reached("execute.received")
    message, context = call.message, call.context
    if call.refusal is not None:
        return Attempt(call, error=call.refusal)
    if message.unique is not None:
        uniqueness.release(message)
    if context.is_late and store().note_start(message.id) > KILLED_ATTEMPTS:
        return Attempt(call, error=PermanentTaskFailure(KILLED))
    with entered(context):
        if signals.task_started.receivers:
            signals.task_started.send_robust(sender=message.task, context=context)
        try:
            payload = message.payload
            if message.stored is not None:
                payload = payloads.payload_of(message)
        except (AlreadyDone, PayloadLost) as error:
            return Attempt(call, error=error)
        try:
            return Attempt(call, _called(call, payload))
        except Exception as error:  # noqa: BLE001  the attempt has it
            return Attempt(call, error=error)


def _called(call: Call, payload: bytes) -> Any:
    """What the function returns; raises what it raises."""
    args, kwargs = codec.loads_call(payload)
    definition, options = call.definition, call.message.options
    if definition.has_subject and args and isinstance(args[0], Subject):
        args = (args[0].load(), *args[1:])
    failpoints.reached("execute.before_call")
    if options.atomic:
        value = _called_once(call, args, kwargs)
    else:
        value = awaited(definition.function(*args, **kwargs))
    failpoints.reached("execute.after_call")
    return value


def _called_once(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function in a transaction that also records that it ran.

    Raises AlreadyDone when such a transaction was committed before.
    """
    message = call.message
    commits: list[int] = []
    value = None
    try:
        with transaction.atomic(using=message.options.database):
            note_commit(message.options.database, commits)
            executions.record(message)
            value = awaited(call.definition.function(*args, **kwargs))
            failpoints.reached("execute.before_commit")
    except Exception:
        if not commits:
            raise
        logger.exception(
            "A hook on the commit of task %s (%s) raised. The task has run; the hooks "
            "that were registered after this one are lost.",
            message.task,
            message.id,
        )
        look()  # ours may be among them
    return value


def awaited(value: Any) -> Any:
    """What a call came to: a coroutine is awaited here.

    Not only `async def` returns one: a decorator may. Raises RuntimeError for a
    coroutine that was cancelled.
    """

    async def waited() -> Any:
        try:
            return await value
        except asyncio.CancelledError as error:
            raise RuntimeError("Something that it awaits was cancelled.") from error

    return async_to_sync(waited)() if inspect.iscoroutine(value) else value
