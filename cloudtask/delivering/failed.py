"""Stores failed tasks: calls that are not tried again. No call is lost silently."""

from __future__ import annotations

import logging
import reprlib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from cloudtask import clock, codec, conf, envelope, failpoints
from cloudtask.delivering.calls import Call
from cloudtask.delivering.errors import (
    LONGEST,
    group_of,
    kind_of,
    storable,
    summary,
)
from cloudtask.exceptions import (
    CloudTaskError,
    DuplicateTask,
    PayloadError,
)
from cloudtask.message import Message
from cloudtask.registry import Definition, find
from cloudtask.sending import payloads
from cloudtask.sending.enqueueing import send
from cloudtask.stores import FailedCall, store

HIDDEN = "********"
LONGEST_KIND = 300  # characters of the path of an error's class
MOST = 20  # entries of a collection that are shown
DEEPEST = 6  # levels of collections that are shown

logger = logging.getLogger("cloudtask")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 300


def save(call: Call, error: BaseException) -> None:
    """Store `call` as a failed task; raises EnqueueUnavailable if that fails."""
    message = call.message
    text = "".join(traceback.format_exception(error))
    failed = FailedCall(
        key=message.key,
        task=message.task,
        queue=message.queue,
        name=message.name,
        envelope=envelope.seal(message, place=_place(message)),
        arguments=storable(described(message, call.definition)),
        error=storable(summary(error)[:LONGEST]),
        traceback=storable(text[-LONGEST:]),
        attempts=call.context.attempt,
        enqueued_at=call.context.enqueued_at,
        kind=storable(kind_of(error))[:LONGEST_KIND],
        group=group_of(message.task, error),
    )
    failpoints.reached("failures.before_save")
    store().save_failed(failed)
    if message.stored is not None:
        store().touch_payload(message.stored)
    failpoints.reached("failures.after_save")


def described(message: Message, definition: Definition) -> str:
    """The arguments as text; values that CLOUDTASK["MASKED"] names are hidden."""
    try:
        args, kwargs = codec.loads_call(payloads.payload_of(message))
        bound = definition.signature.bind(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  a description must not hide the failure
        is_ours = isinstance(error, CloudTaskError | TypeError)
        why = str(error) if is_ours else type(error).__name__  # it may quote a value
        return f"<arguments can't be read: {why}>"
    return ", ".join(
        f"{name}={_perhaps_shown(name, value)}"
        for name, value in bound.arguments.items()
    )[:LONGEST]


def _perhaps_shown(name: str, value: Any) -> str:
    try:
        return _shown(name, value)
    except Exception as error:  # noqa: BLE001  a repr may fail
        return f"<{type(value).__name__} that can't be shown: {type(error).__name__}>"


def _is_masked(name: str) -> bool:
    """Whether MASKED names the value: X-Api-Key is an api_key."""
    folded = _folded(name)
    return any(_folded(word) in folded for word in conf.settings().masked)


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _shown(name: str, value: Any, depth: int = 0) -> str:
    if _is_masked(name):
        return repr(HIDDEN)
    if depth > DEEPEST:
        return "..."
    if isinstance(value, QuerySet):
        return f"<QuerySet of {value.model._meta.label}>"  # repr would query
    if isinstance(value, Mapping):
        pairs = (
            f"{_short.repr(key)}: {_shown(str(key), one, depth + 1)}"
            for key, one in value.items()
        )
        return "{" + _joined(pairs, len(value)) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        there = [f.name for f in fields(value) if hasattr(value, f.name)]
        named = ((name, getattr(value, name)) for name in there)
        pairs = (f"{key}={_shown(key, one, depth + 1)}" for key, one in named)
        return f"{type(value).__name__}({_joined(pairs, len(there))})"
    if isinstance(value, list | tuple | set | frozenset):
        return _collection(value, depth)
    return _short.repr(value)


def _collection(value: Any, depth: int) -> str:
    names = getattr(value, "_fields", None) or _names_of_pair(value)
    parts = (
        _shown(names[index] if names else "", one, depth + 1)
        for index, one in enumerate(value)
    )
    kind = "" if type(value) in (list, tuple) else type(value).__name__
    opening, closing = "[]" if isinstance(value, list) else "()"
    return f"{kind}{opening}{_joined(parts, len(value))}{closing}"


def _names_of_pair(value: Any) -> tuple[str, str] | None:
    """Names for the parts of a pair, which may be an item of a mapping: a header."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    name = value[0]
    return ("", str(name)) if isinstance(name, str | bytes) else None


def _joined(parts: Iterable[str], count: int) -> str:
    shown = [part for _, part in zip(range(MOST), parts, strict=False)]
    if count > MOST:
        shown.append(f"... {count - MOST} more")
    return ", ".join(shown)


def retry(key: str) -> Message:
    """Enqueue a failed task again; its attempts are counted from zero.

    Safe to repeat: the name of the new message follows from the failed one, so a name
    that exists is that of an earlier retry, which was killed before it could delete the
    failed task.

    Raises CloudTaskError if there is no such task, TaskNotFound if this version does
    not know the task, EnqueueError if the queue refuses it, and BadSignature if the
    stored envelope is refused. The task then stays failed.
    """
    failed = store().load_failed(key)
    if failed is None:
        raise CloudTaskError(f"There is no failed task {key!r}.")
    message = opened(failed)
    find(message.task)
    again = message.successor(now=clock.now(), delay=timedelta(0), attempts=0)
    again = replace(again, created=clock.now())
    if message.stored is not None:
        store().touch_payload(message.stored)
    try:
        send([again])
    except DuplicateTask:
        logger.info("Failed task %s was enqueued again before.", key)
    failpoints.reached("bulk.sent")
    store().delete_failed(key)
    return again


def discard(key: str) -> bool:
    """Delete a failed task and its payload; returns whether there was one."""
    failed = store().load_failed(key)
    if failed is None:
        return False
    store().delete_payload(_payload_key(failed))
    return store().delete_failed(key)


def _place(of: Message | FailedCall) -> envelope.Place:
    """The place that an envelope is sealed for, with what lists show of it: nobody
    retries a call that is another one than it seems."""
    return "failed", of.key, "envelope", of.task, of.queue, of.name


def opened(failed: FailedCall) -> Message:
    """The message of a failed call; raises PayloadError."""
    return envelope.unseal_resting(failed.envelope, place=_place(failed))


def _payload_key(failed: FailedCall) -> str:
    try:
        message = opened(failed)
        return message.stored or message.id
    except PayloadError as error:
        # The settings no longer have its key: it can't run again, but can be deleted.
        logger.warning("Failed task %s can't be read: %s", failed.key, error)
        return failed.key.partition("-")[0]


def prune(older_than: timedelta, limit: int = 1000) -> int:
    """Discard up to `limit` tasks that failed longer ago; returns their number."""
    return sum(discard(key) for key in store().old_failed(older_than, limit))
