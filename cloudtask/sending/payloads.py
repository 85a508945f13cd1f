"""Stores encoded calls that are too large for a task, and loads them again."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cloudtask import envelope, failpoints, quotas
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueError,
    EnqueueUnavailable,
    PayloadLost,
)
from cloudtask.message import Message
from cloudtask.sending import limits
from cloudtask.stores import store

logger = logging.getLogger("cloudtask")

FAST, STORED = 1, 0  # zlib levels: the caller waits while megabytes are compressed
SAMPLES, SAMPLE = 4, 16 * 1024  # pieces, and the bytes of each, that are tried first
WORTH = 0.7  # of its size, at most, must a sample take for the whole to be compressed


@contextmanager
def resting(
    messages: Sequence[Message], *, joins: str | None = None
) -> Iterator[list[Message]]:
    """Store the payloads that do not fit a task; the block enqueues what is yielded.

    With `joins`, the payloads commit with the transaction that is open on that database
    if the store is in it. When the block raises an EnqueueError, the payloads of the
    messages that it says were refused are deleted. Raises EnqueueUnavailable when the
    store can't be reached.
    """
    light: list[Message] = []
    try:
        light.extend(_light(message, joins) for message in messages)
        yield light
    except EnqueueError as error:
        if joins is None:
            _remove(_refused(light, len(messages), error))
        raise


def _refused(
    light: Sequence[Message], total: int, error: EnqueueError
) -> Iterator[Message]:
    """The messages of `light` that are surely not enqueued.

    After EnqueueUnavailable a message may be in the queue: only the answer was lost.
    """
    were_sent = len(light) == total
    failures: Mapping[int, EnqueueError] = error.failures or dict.fromkeys(
        range(total), error
    )
    for index, message in enumerate(light):
        failure = failures.get(index)
        if not were_sent or (failure and not isinstance(failure, EnqueueUnavailable)):
            yield message


def _remove(messages: Iterable[Message]) -> None:
    for message in messages:
        if message.stored is None:
            continue
        try:
            store().delete_payload(message.stored)
        except CloudTaskError as error:
            logger.warning("Payload %s is left to be pruned: %s", message.stored, error)


def _light(message: Message, joins: str | None) -> Message:
    if limits.fits_inline(message):
        return message
    limit = limits.room(message)
    ratio = _ratio(message.payload)
    if _may_fit(message, limit, ratio) and len(envelope.seal(message)) <= limit:
        return message
    packed = zlib.compress(message.payload, FAST if ratio < WORTH else STORED)
    failpoints.reached("store.before_save")
    digest = hashlib.sha256(message.payload).hexdigest()
    # A step of a chain may be made twice, with another value. The first message must
    # find the first one.
    key = message.id if message.chain is None else f"{message.id}-{digest[:16]}"
    store().save_payload(key, packed, joins=joins)
    failpoints.reached("store.after_save")
    return replace(message, payload=b"", stored=key, digest=digest)


def _ratio(payload: bytes) -> float:
    """The share of its size that `payload` takes compressed, estimated from samples."""
    starts = range(0, len(payload), max(1, len(payload) // SAMPLES))
    sample = b"".join(payload[start : start + SAMPLE] for start in starts)
    return len(zlib.compress(sample, FAST)) / len(sample)


def _may_fit(message: Message, limit: int, ratio: float) -> bool:
    """Whether it is worth the time to seal the message and see its size."""
    size = len(message.payload)
    return size <= 2 * limit or size * ratio <= 1.25 * limit


def payload_of(message: Message) -> bytes:
    """The encoded call of `message`, loaded from the store if it is there.

    Raises AlreadyDone when it was deleted after the call had succeeded, PayloadLost
    when it is missing or differs from what was saved.
    """
    if message.stored is None:
        return message.payload
    failpoints.reached("store.before_load")
    data = store().load_payload(message.stored)
    try:
        # Bounded: anyone who can write to the store could make it expand without end.
        payload = zlib.decompressobj().decompress(data, quotas.EXPANDED)
    except zlib.error as error:
        raise _damaged(message) from error
    # The store is not signed, but the digest came with the signed message.
    if hashlib.sha256(payload).hexdigest() != message.digest:
        raise _damaged(message)
    return payload


def _damaged(message: Message) -> PayloadLost:
    return PayloadLost(
        f"The payload {message.stored!r} of task {message.task} ({message.id}) is not "
        "what was saved: its chunks in the store are damaged."
    )
