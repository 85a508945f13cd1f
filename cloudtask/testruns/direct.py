"""Deliveries that go straight to the runtime, as the view hands them on."""

from __future__ import annotations

from collections.abc import Callable

from cloudtask import envelope, runtime
from cloudtask.delivering import settling
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import CloudTaskError
from cloudtask.testruns import calls
from cloudtask.testruns.ran import Ran
from cloudtask.transports.memory import Waiting


def deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> Ran:
    """Unseal and run one message. What its function commits is sent by `commit`.

    A failure is left as it is unless `settles`: nothing is kept, enqueued or logged.
    """
    try:
        message = envelope.unseal(entry.body, now=now)
        attempt = runtime.run(message, entry.delivery)
        commit()
        ran = Ran(
            calls.task_of(message),
            message.id,
            attempt.context.attempt,
            now,
            Outcome.FAILED,
            attempt.value,
            attempt.error,
        )
        if attempt.error is None or settles or not attempt.is_failure:
            try:
                ran.outcome = settling.finish(attempt).outcome
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
