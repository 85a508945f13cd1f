"""Turns calls into messages, and deliveries into calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cloudtask import carriers
from cloudtask.context import isolated
from cloudtask.delivering import reporters
from cloudtask.delivering.calls import call_of
from cloudtask.delivering.deliveries import delivered
from cloudtask.delivering.settling import Outcome
from cloudtask.discretion import discreet
from cloudtask.message import Arrival, Delivery, Enqueued, Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import enqueueing
from cloudtask.sending.enqueueing import Arguments

__all__ = ["Outcome", "enqueue", "enqueue_many", "execute"]


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
    if carriers.state.is_unobserved:
        return enqueueing.enqueue(definition, options, args, kwargs)
    with carriers.enqueueing(enqueueing.about(definition, options, 1)) as seen:
        receipt = enqueueing.enqueue(definition, options, args, kwargs)
        seen.tell([receipt])
        return receipt


def enqueue_many(
    definition: Definition, options: Options, calls: Sequence[Arguments]
) -> list[Enqueued]:
    """As `enqueue` for many calls of a task; nothing is sent unless all can travel."""
    if carriers.state.is_unobserved or not calls:
        return enqueueing.enqueue_many(definition, options, calls)
    with carriers.enqueueing(enqueueing.about(definition, options, len(calls))) as seen:
        receipts = enqueueing.enqueue_many(definition, options, calls)
        seen.tell(receipts)
        return receipts


@discreet
@isolated
def execute(message: Message, delivery: Delivery) -> Outcome:
    """Run the call that `message` carries, and make durable what must follow.

    Context variables, language and time zone are afterwards what they were before.
    Raises TaskNotFound when this version does not know the task, and EnqueueUnavailable
    when a store or Cloud Tasks can't be reached: nothing is settled then.
    """
    call = call_of(Arrival(message, delivery))
    if reporters.MODULE in sys.modules:
        with reporters.reporting(call):
            return delivered(call)
    return delivered(call)
