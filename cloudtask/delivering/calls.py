"""Makes the call of a delivery, and attempts it.

A delivery passes through frozen values, each made by one stage and taken by the next:
an `Arrival`, a `Call`, an `Attempt`, and the `Outcome` that `settling` decides on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django.db import transaction

from cloudtask import carriers, clock, codec, conf, failpoints
from cloudtask.chains import handing
from cloudtask.chains.rest import Rest, rest_of
from cloudtask.context import KILLED_ATTEMPTS, TaskContext
from cloudtask.delivering import executions, marks, results
from cloudtask.delivering.errors import UNCAUGHT, explained
from cloudtask.discretion import emptied
from cloudtask.exceptions import PayloadLost, PermanentTaskFailure, Retry, TaskNotFound
from cloudtask.message import Arrival, Message
from cloudtask.options import Backoff, BackoffFunction, Options
from cloudtask.registry import Definition, Subject, find
from cloudtask.sending import payloads, uniqueness
from cloudtask.sending.on_commit import look
from cloudtask.stores import AlreadyDone, connections, store
from cloudtask.stores.transactions import note_commit
from cloudtask.targets import target

logger = logging.getLogger("cloudtask")

KILLED = (
    "It was not run again: attempts beyond its last one neither returned nor raised; "
    "they were killed, or ran into their deadline."
)
HUNG_UP = " Cloud Tasks hung up on the last of them: it got no answer in time."


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is about to be attempted; `refusal` says why it must not be."""

    message: Message
    definition: Definition
    context: TaskContext
    refusal: Exception | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of log records about the call; nothing of its arguments."""
        return {
            "task": self.message.task,
            "task_id": self.message.id,
            "queue": self.message.queue,
            "attempt": self.context.attempt,
        }

    def __str__(self) -> str:
        return (
            f"{self.message.task} ({self.message.id}) on queue {self.message.queue!r}, "
            f"attempt {self.context.attempt}"
        )


@dataclass(frozen=True, slots=True)
class Returned:
    """The value of a function, encoded where it is kept or handed on.

    `result` is the sealed result. `rest` is what follows on the call in its chain, and
    `handed` the value for it; None if nothing follows.
    """

    value: Any
    result: bytes | None = None
    rest: Rest | None = None
    handed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call after one attempt: what the function returned, or what it raised."""

    call: Call
    value: Any = field(default=None, repr=False)
    returned: Returned | None = field(default=None, repr=False)
    error: BaseException | None = None

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
        scheduled=message.occurrence,
        schedule=message.schedule,
        cancellation=marks.cancellation_of(message),
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

    The caller enters the context of the call. Raises EnqueueUnavailable when a store
    can't be reached.
    """
    failpoints.reached("execute.received")
    message, context = call.message, call.context
    if call.refusal is not None:
        return Attempt(call, error=call.refusal)
    if message.unique is not None:
        uniqueness.release(message)
    if refusal := marks.refusal_of(message):
        return Attempt(call, error=refusal)
    if context.is_late and store().note_start(message.id) > KILLED_ATTEMPTS:
        late = HUNG_UP if context.previous_response in (0, 504) else ""
        return Attempt(call, error=PermanentTaskFailure(KILLED + late))
    try:
        payload = message.payload
        if message.stored is not None:
            payload = payloads.payload_of(message)
    except (AlreadyDone, PayloadLost) as error:
        return Attempt(call, error=emptied(error))
    return _watched(call, payload)


def _watched(call: Call, payload: bytes) -> Attempt:
    """Call the function, and put back what it leaves changed on the connections."""
    before, started = connections.states(), clock.now()
    returned, raised = Returned(None), None
    try:
        is_off = carriers.state.is_off and not call.message.carried
        if is_off or call.definition.is_step:
            returned = _called(call, payload)
        else:
            with carriers.restored(call.message.carried, call.context):
                returned = _called(call, payload)
    except UNCAUGHT:
        raise
    except BaseException as error:  # noqa: BLE001  the attempt has it
        raised = error
    if left := connections.put_back(before):
        names = ", ".join(map(repr, left))
        raised = raised or RuntimeError(
            f"It ended with a transaction open on {names}, which was rolled back."
        )
    late = _lateness(call, clock.now() - started)
    if raised is not None:
        return Attempt(call, error=explained(raised, late))
    if late:
        logger.warning("Task %s succeeded too late. %s", call, late)
    return Attempt(call, returned.value, returned)


def _lateness(call: Call, seconds: float) -> str | None:
    """A sentence about a call that took longer than Cloud Tasks waits, else None."""
    timeout = call.message.options.timeout
    deadline = timeout.total_seconds() if timeout else target().default_deadline
    if seconds < deadline:
        return None
    return (
        f"Cloud Tasks hung up after {deadline:g} s, and delivers the task again; this "
        f"attempt took {seconds:.0f} s. Set `timeout` to more, or do less in a task."
    )


def _called(call: Call, payload: bytes) -> Returned:
    """The value of the function, encoded; its errors pass."""
    args, kwargs = codec.loads_call(payload)
    definition, options = call.definition, call.message.options
    if definition.has_subject and args and isinstance(args[0], Subject):
        args = (args[0].load(), *args[1:])
    failpoints.reached("execute.before_call")
    rest = rest_of(call.message, payload)
    if options.atomic:
        returned = _called_once(call, args, kwargs, rest)
    else:
        value = awaited(definition.function(*args, **kwargs))
        returned = _returned(call.message, value, rest)
    failpoints.reached("execute.after_call")
    return returned


def _returned(message: Message, value: Any, rest: Rest | None) -> Returned:
    """The value, encoded for all that need it; raises ResultRefused."""
    result = results.encoded(message, value)
    with results.refusing(message):
        return Returned(value, result, rest, handing.encoded(message, rest, value))


def _called_once(
    call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], rest: Rest | None
) -> Returned:
    """Call the function in a transaction that also records that it ran.

    The result, and what follows on the call in its chain, commit with it. Raises
    AlreadyDone when such a transaction was committed before.
    """
    message = call.message
    alias = message.options.database
    commits: list[int] = []
    returned = Returned(None)
    try:
        with transaction.atomic(using=alias):
            note_commit(alias, commits)
            executions.record(message)
            value = awaited(call.definition.function(*args, **kwargs))
            returned = _returned(message, value, rest)
            if returned.result is not None:
                results.keep(message, returned.result)
            if rest is not None and returned.handed is not None:
                handing.hand_over_with(rest, returned.handed, alias)
            failpoints.reached("execute.before_commit")
    except UNCAUGHT:
        raise
    except BaseException:
        if not commits:
            raise
        logger.exception(
            "A hook on the commit of task %s (%s) raised. The task has run; the hooks "
            "that were registered after this one are lost.",
            message.task,
            message.id,
        )
        look()  # ours may be among them
    return returned


def awaited(value: Any) -> Any:
    """The result of a call; a coroutine is awaited here.

    Not only `async def` returns one: a decorator may.
    """
    if not inspect.iscoroutine(value):
        return value
    result, error = async_to_sync(_to_the_end)(value)
    if error is not None:
        raise error
    return result


Ended = tuple[Any, BaseException | None]


async def _to_the_end(coroutine: Coroutine[Any, Any, Any]) -> Ended:
    """Await `coroutine` although the task around it is cancelled.

    ASGI servers cancel it when Cloud Tasks hangs up. A synchronous function goes on
    then, and so does this one. The error is returned, since a SystemExit that is raised
    would end the event loop.
    """
    running = asyncio.ensure_future(_caught(coroutine))
    while True:
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError as error:
            if running.cancelled():
                return None, error


async def _caught(coroutine: Coroutine[Any, Any, Any]) -> Ended:
    try:
        return await coroutine, None
    except UNCAUGHT:
        raise
    except BaseException as error:  # noqa: BLE001  it is raised by `awaited`
        return None, error
