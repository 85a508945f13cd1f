"""Cancels a call, a chain or a group by its id, without its receipt.

A receipt knows what the options of the task say about a cancel. Without it, they are
read from the message: in the outbox row, the failed task, or the task in its queue.
"""

from __future__ import annotations

import sys

from asgiref.sync import sync_to_async

from cloudtask import registry
from cloudtask.asynchrony import synchronous
from cloudtask.chains import steps
from cloudtask.chains.rest import id_of, rest_of
from cloudtask.chains.steps import CallStep
from cloudtask.delivering import cancelling
from cloudtask.delivering.cancelling import (
    Cancellable,
    CancellableCall,
    CancellableChain,
    Cancellation,
)
from cloudtask.discretion import discreet
from cloudtask.exceptions import CloudTaskError, PayloadError, TaskNotFound
from cloudtask.inspect import finding
from cloudtask.inspect.values import CallState, FoundCall, Located
from cloudtask.message import Enqueued, Message
from cloudtask.sending import payloads
from cloudtask.stores import AlreadyDone, store

MEANINGS = {
    Cancellation.PREVENTED: "it does not begin",
    Cancellation.TOO_LATE: "it has taken effect, or is kept as a failed task",
    Cancellation.REQUESTED: (
        "it may have begun, and then goes on; steps of a chain that have not begun do "
        "not begin"
    ),
}


class NotCancellable(CloudTaskError):
    """The call can't be cancelled; the text says what to do instead."""


@discreet
def cancel(call_id: str) -> Cancellation:
    """Keep a call from beginning, by the id that its receipt has.

    The answer is that of `receipt.cancel()`. The id of a chain or a group cancels all
    of it. Raises CloudTaskError for an id of which nothing waits, and for a call that
    can't be cancelled; QueuesUnknown if the service does not tell; EnqueueUnavailable
    if a store can't be reached.
    """
    with synchronous("cloudtask", "cancel"):
        one = finding.located(call_id, full=True)
        state = one.found.state
        if state is CallState.SUCCEEDED:
            return Cancellation.TOO_LATE
        if state is CallState.FAILED and not one.is_chain:
            return Cancellation.TOO_LATE
        if one.found.is_cancelled and one.message is None and not one.is_chain:
            return _again(one.found)
        return cancelling.cancel(_cancellable(one))


@discreet
async def acancel(call_id: str) -> Cancellation:
    """As `cancel`, for asynchronous code."""
    return await sync_to_async(cancel)(call_id)


def _again(found: FoundCall) -> Cancellation:
    """The answer for a call that was cancelled before, and of which no task is left."""
    if found.database is not None:  # an atomic call has its record there
        return Cancellation.PREVENTED
    has_begun = store().cancel_call(found.id)
    return Cancellation.REQUESTED if has_begun else Cancellation.PREVENTED


def _cancellable(one: Located) -> Cancellable:
    found, message = one.found, one.message
    if one.is_chain:
        return _chain(found, message)
    if message is None:
        raise NotCancellable(_unreadable(found))
    _refuse_of_others(message)
    if message.whole == message.id:
        return _chain(found, message)  # its last step has the id of the chain
    return _call(message)


def _unreadable(found: FoundCall) -> str:
    if found.state is CallState.UNKNOWN:
        return (
            f"Nothing waits with the id {found.id!r}: the call has succeeded without a "
            "result, or there never was one. An id is that of a receipt, of a log "
            "record, or of a list of cloudtask.inspect."
        )
    return (
        f"The call {found.id} waits, but its options can't be read, so it was not "
        "cancelled: another program made it, or its key is not in "
        "SECRET_KEY_FALLBACKS any more."
    )


def _refuse_of_others(message: Message) -> None:
    """Raise NotCancellable for calls that something else of the project controls."""
    try:
        definition = registry.find(message.task)
    except TaskNotFound:
        return
    if definition.is_step:
        raise NotCancellable(
            f"{message.id} is a step of an iteration. Cancel the iteration: "
            "manage.py cloudtask_iterations cancel RUN."
        )
    # Looked up, not imported: a library of django.tasks need not be installed.
    running = sys.modules.get("cloudtask.backend.runner")
    if running is not None and isinstance(definition.function, running.Runner):
        raise NotCancellable(
            f"{message.id} is a call of django.tasks, whose results have no state for "
            "a cancelled one. Let its function look whether it is still needed."
        )


def _call(message: Message) -> CancellableCall:
    options = message.options
    is_exact = options.cancellable or options.atomic
    if message.chain is not None and not is_exact:
        raise NotCancellable(
            f"{message.id} is a step of the chain or group {message.whole}, and its "
            f"task {message.task} is neither cancellable nor atomic. Cancel "
            f"{message.whole}, or declare the task with @task(cancellable=True)."
        )
    return CancellableCall(
        message.receipt,
        options.database,
        is_atomic=options.atomic,
        is_marked=options.cancellable and not options.atomic,
        keeps_result=options.keep_result is not None,
        step=message if message.chain is not None else None,
    )


def _chain(found: FoundCall, message: Message | None) -> CancellableChain:
    """The chain or group, of which `message` is the step that was found."""
    key = found.chain or found.id
    if message is None:
        is_first_group = found.step == id_of(key, 0)
        receipt = Enqueued(key, found.step or key, found.queue or "default")
        return CancellableChain(receipt, is_exact=is_first_group)
    receipt = Enqueued(key, message.name, message.queue)
    return CancellableChain(
        receipt,
        message.options.database,
        is_exact=message.exact,
        kept_in=_kept_in(message),
    )


def _kept_in(message: Message) -> str | None:
    """The database of an atomic last step, if the step that was found knows it."""
    if message.group is not None:
        return None
    try:
        rest = rest_of(message, payloads.payload_of(message))
    except (AlreadyDone, PayloadError):
        return None
    last = steps.last(rest.lines) if rest is not None else None
    options = message.options
    if isinstance(last, CallStep):
        options = last.options
    elif last is not None:
        return None
    return options.database if options.atomic else None
