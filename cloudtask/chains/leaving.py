"""Sends the messages that follow on a call, or leaves them to a relay."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby

from cloudtask import signals
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Message
from cloudtask.sending import enqueueing, outbox, payloads

logger = logging.getLogger("cloudtask")


def send(messages: Sequence[Message]) -> None:
    """Send `messages`; what Cloud Tasks does not take waits in the outbox."""
    with payloads.resting(messages) as light:
        try:
            enqueueing.send(light)
        except EnqueueError as error:
            failures = error.failures or range(len(light))
            _leave_to_relay([light[index] for index in failures], error)
    for message in messages:
        signals.task_enqueued.send_robust(sender=message.task, message=message)


def _leave_to_relay(messages: Iterable[Message], error: EnqueueError) -> None:
    logger.warning("The next step of a call waits in the outbox: %s", error)
    ordered = sorted(messages, key=lambda message: message.options.database)
    for alias, some in groupby(ordered, key=lambda one: one.options.database):
        found = list(some)
        there = outbox.waiting([message.key for message in found], alias)
        # An earlier delivery of the same call may have left some of them.
        if missing := [message for message in found if message.key not in there]:
            outbox.add(missing, alias)
