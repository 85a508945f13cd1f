"""What the service would do after a delivery that failed."""

from __future__ import annotations

from dataclasses import replace

from cloudtask import registry
from cloudtask.context import KILLED_ATTEMPTS
from cloudtask.delivering.calls import max_attempts_of, service_backoff_of
from cloudtask.exceptions import PermanentTaskFailure
from cloudtask.message import Delivery, Message
from cloudtask.targets import AppEngineTarget, target
from cloudtask.testruns.ran import Ran


def delay(message: Message, retry: int) -> float:
    """Seconds before retry number `retry`, by the policy of task and queue."""
    definition = registry.tasks().get(message.task)
    return service_backoff_of(message, definition).delay(retry).total_seconds()


def is_last(message: Message, ran: Ran) -> bool:
    """Whether no attempt is left to `message`, or none would help."""
    return isinstance(ran.error, PermanentTaskFailure) or (
        ran.attempt >= _max_attempts(message)
    )


def is_hopeless(message: Message, ran: Ran) -> bool:
    """Whether the extra attempts after kills are used up, too."""
    return ran.attempt > _max_attempts(message) + KILLED_ATTEMPTS


def _max_attempts(message: Message) -> int:
    return max_attempts_of(message, registry.tasks().get(message.task))


def next_delivery(
    delivery: Delivery, due: float, response: int | None = None
) -> Delivery:
    """What the headers say after an answer of status `response`, or after none.

    As X-CloudTasks-* and X-AppEngine-* do: on HTTP targets no answer reads as 504, and
    executions leave out 5xx and no answer; App Engine counts each answer.
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
