"""Failed tasks: calls that are kept, since nothing is silently dropped."""

from __future__ import annotations

import reprlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cloudtask import codec, conf, envelope, outbox
from cloudtask.context import TaskContext
from cloudtask.exceptions import CloudTaskError
from cloudtask.message import Message
from cloudtask.registry import Definition
from cloudtask.stores import FailedCall, payloads, store

HIDDEN = "********"
LONGEST = 20_000  # characters of a traceback or of arguments that are kept

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 300
_short.maxlist = _short.maxtuple = _short.maxdict = 20


def keep(
    message: Message, definition: Definition, context: TaskContext, error: BaseException
) -> None:
    """Make `message` a failed task; raises EnqueueUnavailable if the store can't."""
    text = "".join(traceback.format_exception(error))
    store().save_failed(
        FailedCall(
            key=message.key,
            task=message.task,
            queue=message.queue,
            name=message.name,
            envelope=envelope.seal(message),
            arguments=described(message, definition),
            error=f"{type(error).__name__}: {error}"[:LONGEST],
            traceback=text[-LONGEST:],
            attempts=context.attempt,
            enqueued_at=context.enqueued_at,
        )
    )


def described(message: Message, definition: Definition) -> str:
    """The call's arguments as text, with what CLOUDTASK["MASKED"] names hidden."""
    try:
        args, kwargs = codec.loads_call(payloads.payload_of(message))
        bound = definition.signature.bind(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  a description must not hide the failure
        return f"<arguments can't be read: {error}>"
    return ", ".join(
        f"{name}={_shown(name, value)}" for name, value in bound.arguments.items()
    )[:LONGEST]


def _shown(name: str, value: Any) -> str:
    if any(word in name.lower() for word in conf.settings().masked):
        return repr(HIDDEN)
    if isinstance(value, dict):
        inner = (f"{key!r}: {_shown(str(key), one)}" for key, one in value.items())
        return "{" + ", ".join(inner) + "}"
    return _short.repr(value)


def retry(key: str) -> Message:
    """Enqueue a failed task again, with all its attempts; raises CloudTaskError."""
    failed = store().load_failed(key)
    if failed is None:
        raise CloudTaskError(f"There is no failed task {key!r}.")
    message = envelope.unseal(failed.envelope, now=0.0)
    again = message.successor(now=time.time(), delay=timedelta(0), attempts=0)
    again = replace(again, created=time.time())
    outbox.send([again])
    store().delete_failed(key)
    return again


def discard(key: str) -> bool:
    """Forget a failed task and its payload; whether there was one."""
    failed = store().load_failed(key)
    if failed is None:
        return False
    message = envelope.unseal(failed.envelope, now=0.0)
    if message.stored is not None:
        store().delete_payload(message.stored)
    return store().delete_failed(key)


def prune(older_than: timedelta, limit: int = 1000) -> int:
    """Discard what failed longer ago; how many."""
    keys: Sequence[str] = store().old_failed(older_than, limit)
    return sum(discard(key) for key in keys)
