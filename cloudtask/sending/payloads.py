"""Encoded calls that are too large to travel: kept in the store, named by a key."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cloudtask import conf, envelope, failpoints
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueError,
    EnqueueUnavailable,
    PayloadLost,
)
from cloudtask.message import Message
from cloudtask.stores import store

logger = logging.getLogger("cloudtask")

MAX_STORED_TASK = 1_048_569  # bytes; the service refuses larger tasks
OVERHEAD = 4096  # bytes for names, url, envelope and policy of a task
FAST, STORED = 1, 0  # zlib levels: somebody waits while megabytes are compressed
SAMPLES, SAMPLE = 4, 16 * 1024  # pieces, and bytes of each, that stand for the whole
WORTH = 0.7  # of the size is what compressing a payload must promise


@contextmanager
def resting(
    messages: Sequence[Message], *, joins: str | None = None
) -> Iterator[list[Message]]:
    """`messages`, those that do not fit a task with their payload in the store; the
    block enqueues them.

    A payload may share the fate of the transaction that is open on the database
    `joins`. Those of messages that the block says were refused are removed. Raises
    EnqueueUnavailable when the store can't be reached.
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
    """Those of `light` that are not enqueued for sure: an answer that was lost may have
    been a yes."""
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
    limit = _room(message)
    if message.options.small or len(message.payload) <= limit:
        return message
    ratio = _ratio(message.payload)
    if _may_fit(message, limit, ratio) and len(envelope.seal(message)) <= limit:
        return message
    packed = zlib.compress(message.payload, FAST if ratio < WORTH else STORED)
    failpoints.reached("store.before_save")
    digest = hashlib.sha256(message.payload).hexdigest()
    store().save_payload(message.id, packed, joins=joins)
    failpoints.reached("store.after_save")
    return replace(message, payload=b"", stored=message.id, digest=digest)


def _room(message: Message) -> int:
    """Bytes that a task has for the envelope of `message`."""
    options = message.options
    headers = sum(
        len(f"{k}{v}".encode()) + 16 for k, v in (options.headers or {}).items()
    )
    limit = min(conf.settings().max_task_size, MAX_STORED_TASK)
    return limit - OVERHEAD - headers


def _ratio(payload: bytes) -> float:
    """What compressing makes of `payload`, judged by pieces of it."""
    starts = range(0, len(payload), max(1, len(payload) // SAMPLES))
    sample = b"".join(payload[start : start + SAMPLE] for start in starts)
    return len(zlib.compress(sample, FAST)) / len(sample)


def _may_fit(message: Message, limit: int, ratio: float) -> bool:
    """Whether making the envelope, to see its size, is worth the time."""
    size = len(message.payload)
    return size <= 2 * limit or size * ratio <= 1.25 * limit


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
        # Bounded: who can write to the store could make it expand without end.
        payload = zlib.decompressobj().decompress(data, envelope.MAX_EXPANDED)
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
