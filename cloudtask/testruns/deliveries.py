"""Delivers without HTTP, and computes the delivery that Cloud Tasks would make next."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace

from cloudtask import envelope, registry
from cloudtask.context import KILLED_ATTEMPTS
from cloudtask.delivering.calls import (
    attempted,
    call_of,
    max_attempts_of,
    service_backoff_of,
)
from cloudtask.delivering.settling import Outcome, finish
from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure
from cloudtask.message import Arrival, Delivery, Message
from cloudtask.targets import AppEngineTarget, target
from cloudtask.testruns import calls
from cloudtask.testruns.report import ReportedAttempt
from cloudtask.transports.memory import Waiting


def deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> ReportedAttempt:
    """Unseal and run one message. `commit` sends the calls that its function commits.

    A failure is left as it is unless `settles`: nothing is kept, enqueued or logged.
    """
    return copy_context().run(_deliver, entry, now, settles=settles, commit=commit)


def _deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> ReportedAttempt:
    try:
        message = envelope.unseal(entry.body, now=now)
        attempt = attempted(call_of(Arrival(message, entry.delivery)))
        commit()
        ran = ReportedAttempt(
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


def unanswered(
    entry: Waiting, now: float, error: BaseException | None
) -> ReportedAttempt:
    """An attempt that never reached the function, or whose process crashed."""
    message = entry.message
    attempt = message.attempts + entry.delivery.retries + 1
    task = calls.task_of(message)
    return ReportedAttempt(task, message.id, attempt, now, Outcome.FAILED, None, error)


def delay(message: Message, retry: int) -> float:
    """Seconds before retry number `retry`, by the policy of task and queue."""
    definition = registry.tasks().get(message.task)
    return service_backoff_of(message, definition).delay(retry).total_seconds()


def is_last(message: Message, ran: ReportedAttempt) -> bool:
    """Whether `message` has no attempt left, or another one would not help."""
    return isinstance(ran.error, PermanentTaskFailure) or (
        ran.attempt >= _max_attempts(message)
    )


def is_hopeless(message: Message, ran: ReportedAttempt) -> bool:
    """Whether the extra attempts after kills are also used up."""
    return ran.attempt > _max_attempts(message) + KILLED_ATTEMPTS


def _max_attempts(message: Message) -> int:
    return max_attempts_of(message, registry.tasks().get(message.task))


def next_delivery(
    delivery: Delivery, due: float, response: int | None = None
) -> Delivery:
    """The headers after an answer of status `response`, or after none.

    They follow X-CloudTasks-* and X-AppEngine-*. On HTTP targets, a missing answer is
    reported as 504, and executions count neither that nor 5xx answers. App Engine
    counts every answer.
    """
    on_app_engine = isinstance(target(), AppEngineTarget)
    if response is None:
        previous = 0 if on_app_engine else 504
        reason = "Instance Unavailable" if on_app_engine else None
    else:
        previous, reason = response, "App Error" if on_app_engine else None
    counts = response is not None and (on_app_engine or response < 500)
    return replace(
        delivery,
        retries=delivery.retries + 1,
        executions=delivery.executions + int(counts),
        eta=due,
        previous_response=previous,
        retry_reason=reason,
    )
