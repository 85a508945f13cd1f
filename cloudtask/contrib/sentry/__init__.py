"""Transactions and spans of Sentry: `cloudtask.contrib.sentry.Sentry`.

Without this carrier, events already have the task as transaction and the call as tags.
With it, each attempt is a transaction of its own in the trace of its caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sentry_sdk
from sentry_sdk.tracing import TransactionSource

from cloudtask import clock
from cloudtask.carriers import Enqueueing, Telemetry
from cloudtask.carriers.protocols import Values
from cloudtask.context import TaskContext
from cloudtask.contrib.sentry import monitors

__all__ = ["Sentry"]

ORIGIN = "auto.queue.cloudtask"
SYSTEM = "gcp_cloud_tasks"
HEADERS = ("sentry-trace", "baggage")
# The status of the transaction, by outcome.
STATUS = {"failed": "internal_error", "exhausted": "internal_error"}
STATUS |= {
    "cancelled": "cancelled",
    "skipped": "cancelled",
    "unsettled": "unavailable",
    "duplicate": "already_exists",
}


class Sentry(Telemetry):
    """Traces calls with the Sentry SDK that the project has set up.

    With `check_ins`, calls of schedules also check in at monitors, one for each
    schedule. Sentry charges for monitors.
    """

    name = "sentry"

    def __init__(self, *, check_ins: bool = False) -> None:
        self.check_ins = check_ins

    def capture(self) -> Values | None:
        values = sentry_sdk.get_traceparent(), sentry_sdk.get_baggage()
        found = {k: v for k, v in zip(HEADERS, values, strict=True) if v}
        return found or None

    @contextmanager
    def enqueueing(self, what: Enqueueing) -> Iterator[Any]:
        if sentry_sdk.get_current_span() is None:
            yield None
            return
        with sentry_sdk.start_span(
            op="queue.publish", name=what.task, origin=ORIGIN
        ) as span:
            _set(span, {"messaging.destination.name": what.queue})
            if what.run:
                _set(span, {"cloudtask.run.id": what.run})
            yield partial(_identify, span)

    @contextmanager
    def restore(self, carried: Values | None, context: TaskContext) -> Iterator[Any]:
        transaction = sentry_sdk.continue_trace(
            dict(carried or {}),
            op="queue.task",
            name=context.task,
            source=TransactionSource.TASK,
            origin=ORIGIN,
        )
        waited = clock.now() - (context.due or context.created)
        with (
            sentry_sdk.start_transaction(transaction),
            sentry_sdk.start_span(
                op="queue.process", name=context.task, origin=ORIGIN
            ) as span,
        ):
            _set(
                span,
                {
                    "messaging.system": SYSTEM,
                    "messaging.message.id": context.id,
                    "messaging.destination.name": context.queue,
                    "messaging.message.retry.count": context.attempt - 1,
                    # Clocks differ, so the difference may be negative.
                    "messaging.message.receive.latency": max(0.0, waited * 1000),
                },
            )
            if self.check_ins:
                monitors.begun(context)
            yield partial(self._settled, transaction, span, context)

    def _settled(
        self,
        transaction: Any,
        span: Any,
        context: TaskContext,
        outcome: Any,
        error: BaseException | None,
    ) -> None:
        for one in (span, transaction):
            one.set_status(STATUS.get(outcome.value, "ok"))
        _set(span, {"cloudtask.outcome": outcome.value})
        if self.check_ins:
            monitors.ended(context, outcome.value)

    def noted(self, facts: Any) -> None:
        span = sentry_sdk.get_current_span()
        if span is not None:
            _set(span, {f"cloudtask.{name}": value for name, value in facts.items()})


def _identify(span: Any, receipts: Any) -> None:
    if len(receipts) == 1:
        _set(span, {"messaging.message.id": receipts[0].id})
    else:
        _set(span, {"messaging.batch.message_count": len(receipts)})


def _set(span: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        span.set_data(name, value)
