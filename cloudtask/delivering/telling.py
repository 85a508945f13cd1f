"""Tells the chain or group of a call that it failed for good, or was cancelled.

All of it can be repeated: groups keep the first end of a member, and calls that follow
have the same name each time.
"""

from __future__ import annotations

import logging

from cloudtask.chains import cancelled, handing
from cloudtask.chains.failure import Failure
from cloudtask.chains.rest import Rest, rest_of
from cloudtask.delivering import results
from cloudtask.exceptions import PayloadError
from cloudtask.message import Message
from cloudtask.sending import payloads
from cloudtask.stores import AlreadyDone

logger = logging.getLogger("cloudtask")


def tell_failure(message: Message, error: BaseException) -> None:
    """Keep the failure as the result, and tell the chain of it.

    Raises EnqueueUnavailable.
    """
    results.keep_failure(message, error)
    rest = _rest(message)
    if rest is not None:
        handing.tell(message, rest, *results.texts_of(error))


def tell_cancelled(message: Message) -> None:
    """Tell the receipts around a step that it was cancelled: nothing follows on it.

    The receipt of a chain that was cancelled as a whole looks for that itself. Raises
    EnqueueUnavailable.
    """
    if message.chain is None or cancelled.is_cancelled(message):
        return
    rest = _rest(message)
    if rest is not None:
        text = f"{message.task} ({message.id}) was cancelled."
        failure = Failure(rest.chain, message.place, message.task, message.id, text, "")
        handing.tell_result(rest, failure)


def _rest(message: Message) -> Rest | None:
    """The rest of the chain of a call that failed, if it can still be read."""
    if message.chain is None:
        return None
    try:
        return rest_of(message, payloads.payload_of(message))
    except (AlreadyDone, PayloadError) as lost:
        logger.error(
            "The chain of %s (%s) can't be told of it: %s",
            message.task,
            message.id,
            lost,
        )
        return None
