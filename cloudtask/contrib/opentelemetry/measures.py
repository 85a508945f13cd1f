"""The metrics of OpenTelemetry that the library records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opentelemetry import metrics

from cloudtask import clock
from cloudtask.context import TaskContext
from cloudtask.contrib.opentelemetry.conventions import (
    BUCKETS,
    CONSUMED,
    GAUGES,
    OPERATION_DURATION,
    OPERATION_TYPE,
    OUTCOME,
    PROCESS_DURATION,
    SCHEMA,
    SENT,
    STATE,
    TASK,
    WAIT,
    WAIT_BUCKETS,
    messaging,
    type_of,
)


class Measures:
    """The instruments of the library."""

    def __init__(self, provider: Any) -> None:
        meter = metrics.get_meter("cloudtask", "", provider, SCHEMA)
        histogram = partial(meter.create_histogram, unit="s")
        self.sent_messages = meter.create_counter(SENT, "{message}")
        self.consumed_messages = meter.create_counter(CONSUMED, "{message}")
        self.operation_duration = histogram(
            OPERATION_DURATION,
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.process_duration = histogram(
            PROCESS_DURATION,
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.wait = histogram(
            WAIT,
            explicit_bucket_boundaries_advisory=WAIT_BUCKETS,
        )

        self.gauges = {
            field: meter.create_gauge(name, unit)
            for field, (name, unit) in GAUGES.items()
        }

    def gauged(self, values: Mapping[str, Any]) -> None:
        """Records the counts of a relay."""
        for field, gauge in self.gauges.items():
            value = values[field]
            if isinstance(value, Mapping):
                for state, number in value.items():
                    gauge.set(number, {STATE: state})
            else:
                gauge.set(value)

    def sent(
        self,
        attributes: Mapping[str, Any],
        count: int,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        """One request that sent messages, or failed to."""
        about = {**attributes, **type_of(error)}
        about.pop(OPERATION_TYPE)
        self.sent_messages.add(count, about)
        self.operation_duration.record(seconds, about)

    def processed(
        self,
        context: TaskContext,
        seconds: float,
        outcome: str,
        error: BaseException | None,
    ) -> None:
        """One delivery that has ended."""
        about = messaging("process", context.queue) | {TASK: context.task}
        about.pop(OPERATION_TYPE)
        self.consumed_messages.add(1, about)
        self.process_duration.record(
            seconds,
            {**about, OUTCOME: outcome, **type_of(error)},
        )
        if context.attempt == 1:
            # Clocks differ, so the difference may be negative.
            waited = clock.now() - seconds - (context.due or context.created)
            self.wait.record(max(0.0, waited), about)
