"""Stores the results of calls whose task has `keep_result`.

| state | reached | what a crash before it leaves |
|---|---|---|
| none | the call waits or runs | a redelivery runs the call |
| SUCCEEDED | before the payload is deleted and the delivery acknowledged | the effects without the result: a redelivery runs the call again |
| SUCCEEDED, `atomic` | in the transaction of the effects | neither effects nor result |
| FAILED | after the failed task is stored | the failed task: a redelivery runs the call once more |

A retry of the failed task leads from FAILED to SUCCEEDED. No other state follows.
"""  # noqa: E501  a table

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from django.db import connections

from cloudtask import codec, envelope, quotas
from cloudtask.delivering.errors import LONGEST, storable, summary
from cloudtask.exceptions import PayloadTooLarge, PermanentTaskFailure, UnsupportedValue
from cloudtask.message import Message
from cloudtask.stores import store
from cloudtask.stores.results import (
    ResultState,
    ResultStore,
    StoredResult,
    result_place,
)


class ResultRefused(PermanentTaskFailure):
    """The value that a task returned can't be kept as its result."""


def encoded(message: Message, value: object) -> bytes | None:
    """The result of `message` as it is stored; None if none is kept.

    Raises ResultRefused for a value that can't travel or is too large. The call is then
    kept as failed at once, since another attempt would repeat its effects in vain.
    """
    if message.options.keep_result is None:
        return None
    with refusing(message):
        data = codec.dumps(value, root="its result")
    if len(data) > quotas.RESULT:
        raise ResultRefused(
            f"{message.task} has returned a value of {len(data):,} bytes, more than "
            f"the {quotas.RESULT:,} that are kept. Store it, and return its key."
        )
    return envelope.seal_value(data, place=result_place(message.id))


@contextmanager
def refusing(message: Message) -> Iterator[None]:
    """Raise ResultRefused for a value that can't be encoded, or is too large."""
    try:
        yield
    except UnsupportedValue as error:
        raise ResultRefused(
            f"{message.task} has returned a value that can't be kept: {error}"
        ) from error
    except PayloadTooLarge as error:
        raise ResultRefused(str(error)) from error


def keep(message: Message, value: bytes) -> None:
    """Store the result of a call that has succeeded; raises EnqueueUnavailable."""
    _save(message, _result(message, ResultState.SUCCEEDED, value=value))


def keep_failure(message: Message, error: BaseException) -> None:
    """Store why a call has failed for good; raises EnqueueUnavailable."""
    if message.options.keep_result is None:
        return
    text, trace = texts_of(error)
    _save(message, _result(message, ResultState.FAILED, error=text, traceback=trace))


def texts_of(error: BaseException) -> tuple[str, str]:
    """The error and its traceback, as they are stored."""
    text = "".join(traceback.format_exception(error))
    return storable(summary(error)[:LONGEST]), storable(text[-LONGEST:])


def find(key: str, alias: str | None = None) -> StoredResult | None:
    """The result of a call: of an atomic one in the database `alias`."""
    return _kept_in(alias).load_result(key)


def _save(message: Message, result: StoredResult) -> None:
    keep_for = message.options.keep_result
    if keep_for is not None:
        alias = message.options.database if message.options.atomic else None
        _kept_in(alias).save_result(result, keep_for)


def _kept_in(alias: str | None) -> ResultStore:
    """Where results are kept: with the effects of an atomic call, else in the store."""
    if alias is None or alias not in connections:
        return store()
    from cloudtask.stores.database.results import ResultsIn

    return ResultsIn(alias)


def _result(
    message: Message,
    state: ResultState,
    *,
    value: bytes | None = None,
    error: str = "",
    traceback: str = "",
) -> StoredResult:
    return StoredResult(
        id=message.id,
        task=message.task,
        queue=message.queue,
        state=state,
        value=value,
        error=error,
        traceback=traceback,
        enqueued_at=datetime.fromtimestamp(message.created, UTC),
    )
