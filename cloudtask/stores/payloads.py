"""Encoded calls that are too large to travel: kept in the store, named by a key."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import replace

from cloudtask import conf, envelope, failpoints
from cloudtask.exceptions import PayloadLost
from cloudtask.message import Message
from cloudtask.stores import store

OVERHEAD = 4096  # bytes left for names, headers and the envelope of a task
FAST = 1  # zlib level: megabytes are compressed while somebody waits


def lightened(messages: Iterable[Message]) -> list[Message]:
    """`messages`, those that do not fit a task with their payload in the store.

    Raises EnqueueUnavailable when the store can't be reached.
    """
    return [_light(message) for message in messages]


def _light(message: Message) -> Message:
    limit = conf.settings().max_task_size - OVERHEAD
    if len(message.payload) <= limit or message.options.small:
        return message
    if len(envelope.seal(message)) <= limit:
        return message
    failpoints.reached("store.before_save")
    digest = hashlib.sha256(message.payload).hexdigest()
    store().save_payload(message.id, zlib.compress(message.payload, FAST))
    failpoints.reached("store.after_save")
    return replace(message, payload=b"", stored=message.id, digest=digest)


def payload_of(message: Message) -> bytes:
    """The encoded call of `message`, fetched from the store if it rests there.

    Raises AlreadyDone when it was removed after success; PayloadLost when it is gone or
    not what was saved.
    """
    if message.stored is None:
        return message.payload
    failpoints.reached("store.before_load")
    data = store().load_payload(message.stored)
    try:
        payload = zlib.decompress(data)
    except zlib.error as error:
        raise _damaged(message) from error
    # The store is not signed; the digest came with the signed message.
    if hashlib.sha256(payload).hexdigest() != message.digest:
        raise _damaged(message)
    return payload


def _damaged(message: Message) -> PayloadLost:
    return PayloadLost(
        f"The payload {message.stored!r} of task {message.task} ({message.id}) is not "
        "what was saved: its chunks in the store are damaged."
    )
