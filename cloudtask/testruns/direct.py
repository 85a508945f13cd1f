"""Delivers messages without HTTP: what the view does after it has read the request."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

from cloudtask import envelope
from cloudtask.delivering.calls import attempted, call_of
from cloudtask.delivering.settling import Outcome, finish
from cloudtask.exceptions import CloudTaskError
from cloudtask.message import Arrival
from cloudtask.testruns import calls
from cloudtask.testruns.ran import Ran
from cloudtask.transports.memory import Waiting


def deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> Ran:
    """Unseal and run one message. What its function commits is sent by `commit`.

    A failure is left as it is unless `settles`: nothing is kept, enqueued or logged.
    """
    return copy_context().run(_deliver, entry, now, settles=settles, commit=commit)


def _deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> Ran:
    try:
        message = envelope.unseal(entry.body, now=now)
        attempt = attempted(call_of(Arrival(message, entry.delivery)))
        commit()
        ran = Ran(
            calls.task_of(message),
            message.id,
            attempt.call.context.attempt,
            now,
            Outcome.FAILED,
            attempt.value,
            attempt.error,
        )
        if attempt.error is None or settles or not attempt.is_failure:
            try:
                ran.outcome = finish(attempt)
            except CloudTaskError as error:
                ran.error = error
        return ran
    except CloudTaskError as error:
        return unanswered(entry, now, error)


def unanswered(entry: Waiting, now: float, error: BaseException | None) -> Ran:
    """An attempt that never reached the function, or whose process died."""
    message = entry.message
    attempt = message.attempts + entry.delivery.retries + 1
    task = calls.task_of(message)
    return Ran(task, message.id, attempt, now, Outcome.FAILED, None, error)
