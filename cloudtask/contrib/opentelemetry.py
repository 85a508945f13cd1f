"""Spans and metrics of OpenTelemetry: `cloudtask.contrib.opentelemetry.Trace`.

    request ── create T ── send Q                   another process: send Q ⇢ create T
    delivery ── process T ⇢ create T                each attempt has a span of its own
    request ── create run      plan, legs, finalize ⇢ create run, ⇢ the step before

A delivery belongs to the trace of its own request, and links (⇢) to the span that made
the message: the request may be over for hours, and its trace closed. Names are those
of the semantic conventions for messaging, which are not stable yet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, get_args

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cloudtask import clock
from cloudtask.carriers import Enqueueing, Telemetry
from cloudtask.carriers.protocols import Block, Values
from cloudtask.context import TaskContext
from cloudtask.exceptions import ConfigurationError

__all__ = ["Trace"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM_VALUE = "gcp_cloud_tasks"  # no convention lists Cloud Tasks; after "gcp_pubsub"

# Attributes, by the conventions.
SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
BATCH = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
# Attributes of our own.
TASK = "cloudtask.task"
ATTEMPT = "cloudtask.attempt"
MAX_ATTEMPTS = "cloudtask.max_attempts"
OUTCOME = "cloudtask.outcome"
FACTS = {
    "run": "cloudtask.run.id",
    "task": "cloudtask.run.task",
    "shard": "cloudtask.shard",
    "leg": "cloudtask.leg",
    "rows": "cloudtask.rows",
}

# Metrics.
SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
WAIT = "cloudtask.task.wait"
# By the fields of `cloudtask.gauges.Gauges`.
GAUGES = {
    "outbox_rows": ("cloudtask.outbox.rows", "{row}"),
    "outbox_age": ("cloudtask.outbox.age", "s"),
    "outbox_parked": ("cloudtask.outbox.parked", "{row}"),
    "failed": ("cloudtask.failed", "{task}"),
    "runs": ("cloudtask.runs", "{run}"),
    "runs_quiet": ("cloudtask.runs.quiet", "{run}"),
}
STATE = "cloudtask.run.state"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
WAIT_BUCKETS = (0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800)

MOST_LINKS = 128  # the SDK keeps no more for a span
BEFORE = "before"  # the step of the run that made this one
FAILURES = frozenset({"failed", "exhausted", "unsettled"})

Relation = Literal["link", "parent", "none"]

# Only this format: baggage may hold what must not be stored with a task.
_format = TraceContextTextMapPropagator()
_is_sent: ContextVar[bool] = ContextVar("cloudtask_otel_sent", default=False)
_process: ContextVar[Span | None] = ContextVar("cloudtask_otel_process", default=None)


class Trace(Telemetry):
    """Traces calls from `defer()` to their last attempt, and measures them.

    `relation` says how the span of a delivery refers to the one that made the message:
    "link", "parent" or "none". With `flush`, spans are exported at the end of each
    delivery, for at most so many seconds: for Cloud Run, which gives no CPU between
    requests. The providers are the global ones if left out.
    """

    name = "opentelemetry"

    def __init__(
        self,
        *,
        relation: Relation = "link",
        flush: float | None = None,
        tracer_provider: Any = None,
        meter_provider: Any = None,
    ) -> None:
        if relation not in get_args(Relation):
            choices = ", ".join(map(repr, get_args(Relation)))
            raise ConfigurationError(
                f"relation of Trace must be one of {choices}, not {relation!r}."
            )
        self.relation, self.flush = relation, flush
        self.provider = tracer_provider
        self.tracer = trace.get_tracer("cloudtask", None, tracer_provider, SCHEMA)
        self.measures = Measures(meter_provider)

    # At the caller

    def capture(self) -> Values | None:
        return _carried_from(None)

    @contextmanager
    def enqueueing(self, what: Enqueueing) -> Iterator[Any]:
        operation = "create" if what.waits else "send"
        attributes = {
            **_of(operation, what.queue),
            TASK: what.task,
            **({BATCH: what.calls} if what.calls != 1 else {}),
            **({FACTS["run"]: what.run} if what.run else {}),
        }
        name = f"{operation} {what.task}"
        token = _is_sent.set(not what.waits)
        try:
            with self._span(name, SpanKind.PRODUCER, attributes) as span:
                yield partial(_identify, span)
        finally:
            _is_sent.reset(token)

    @contextmanager
    def sending(self, queue: str, carried: Sequence[Values | None]) -> Iterator[None]:
        attributes = _of("send", queue)
        since, error = time.perf_counter(), None
        try:
            if _is_sent.get():  # the span of defer() is that of the request, too
                yield
                return
            found = [_span_in(values) for values in carried[:MOST_LINKS]]
            links = [Link(one) for one in found if one is not None]
            count = {BATCH: len(carried)} if len(carried) != 1 else {}
            about = {**attributes, **count}
            with self._span(f"send {queue}", SpanKind.CLIENT, about, links=links):
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            took = time.perf_counter() - since
            self.measures.sent(attributes, len(carried), took, error)

    # At the delivery

    def restore(self, carried: Values | None, context: TaskContext) -> Block:
        return self._process(carried, context)

    @contextmanager
    def _process(self, carried: Values | None, context: TaskContext) -> Iterator[Any]:
        attributes = {
            **_of("process", context.queue),
            MESSAGE_ID: context.id,
            TASK: context.task,
            ATTEMPT: context.attempt,
            **({MAX_ATTEMPTS: context.max_attempts} if context.max_attempts else {}),
        }
        parent, links = self._relations(carried)
        since = time.perf_counter()
        name = f"process {context.task}"
        with self._span(name, SpanKind.CONSUMER, attributes, parent, links) as span:
            token, sent = _process.set(span), _is_sent.set(False)
            try:
                yield partial(self._settled, span, context, since)
            finally:
                _is_sent.reset(sent)
                _process.reset(token)
        if self.flush is not None:
            self._flush(self.flush)

    def _relations(
        self, carried: Values | None
    ) -> tuple[Context | None, Sequence[Link]]:
        """The parent of a delivery, None for the current span, and its links."""
        made, before = _span_in(carried), _span_in(carried, BEFORE)
        further = [Link(before)] if before is not None else []
        if self.relation == "none" or made is None:
            return None, further if self.relation != "none" else []
        if self.relation == "link":
            return None, [Link(made), *further]
        current = trace.get_current_span().get_span_context()
        links = [Link(current)] if current.is_valid else []
        parent = trace.set_span_in_context(trace.NonRecordingSpan(made))
        return parent, [*links, *further]

    def _settled(
        self,
        span: Span,
        context: TaskContext,
        since: float,
        outcome: Any,
        error: BaseException | None,
    ) -> None:
        span.set_attribute(OUTCOME, outcome.value)
        failure = error if outcome.value in FAILURES else None
        if failure is not None:
            _fail(span, failure)
        took = time.perf_counter() - since
        self.measures.processed(context, took, outcome.value, failure)

    def following(self, carried: Values | None) -> Values | None:
        span = _process.get()
        here = _carried_from(trace.set_span_in_context(span)) if span else None
        if here is None:
            return carried
        return {**(carried or {}), BEFORE: here["traceparent"]}

    def noted(self, facts: Mapping[str, Any]) -> None:
        span = _process.get()
        for name, value in facts.items():
            if span is not None and name in FACTS:
                span.set_attribute(FACTS[name], value)

    def gauged(self, gauges: Mapping[str, Any]) -> None:
        self.measures.gauged(gauges)

    # Both

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        with self.tracer.start_as_current_span(
            name,
            parent,
            kind,
            attributes,
            links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                _fail(span, error)
                raise

    def _flush(self, seconds: float) -> None:
        provider: Any = self.provider or trace.get_tracer_provider()
        flush = getattr(provider, "force_flush", None)
        if flush is not None:
            flush(int(seconds * 1000))


class Measures:
    """The instruments of the library."""

    def __init__(self, provider: Any) -> None:
        meter = metrics.get_meter("cloudtask", "", provider, SCHEMA)
        histogram = partial(meter.create_histogram, unit="s")
        self.sent_messages = meter.create_counter(SENT, "{message}")
        self.consumed_messages = meter.create_counter(CONSUMED, "{message}")
        self.operation_duration = histogram(
            OPERATION_DURATION, explicit_bucket_boundaries_advisory=BUCKETS
        )
        self.process_duration = histogram(
            PROCESS_DURATION, explicit_bucket_boundaries_advisory=BUCKETS
        )
        self.wait = histogram(WAIT, explicit_bucket_boundaries_advisory=WAIT_BUCKETS)

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
        about = {**attributes, **_type_of(error)}
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
        about = _of("process", context.queue) | {TASK: context.task}
        about.pop(OPERATION_TYPE)
        self.consumed_messages.add(1, about)
        self.process_duration.record(
            seconds, {**about, OUTCOME: outcome, **_type_of(error)}
        )
        if context.attempt == 1:
            # Clocks differ, so the difference may be negative.
            waited = clock.now() - seconds - (context.due or context.created)
            self.wait.record(max(0.0, waited), about)


def _of(operation: str, queue: str) -> dict[str, Any]:
    return {
        SYSTEM: SYSTEM_VALUE,
        OPERATION: operation,
        OPERATION_TYPE: operation,
        DESTINATION: queue,
    }


def _identify(span: Span, receipts: Sequence[Any]) -> None:
    if len(receipts) == 1:
        span.set_attribute(MESSAGE_ID, receipts[0].id)


def _type_of(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {}
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    return {ERROR_TYPE: name}


def _fail(span: Span, error: BaseException) -> None:
    span.set_attributes(_type_of(error))
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    span.record_exception(error)


def _carried_from(context: Context | None) -> dict[str, str] | None:
    found: dict[str, str] = {}
    _format.inject(found, context)
    return found or None


def _span_in(values: Values | None, name: str = "traceparent") -> SpanContext | None:
    if not values or name not in values:
        return None
    carried = {"traceparent": values[name]}
    if name == "traceparent" and "tracestate" in values:
        carried["tracestate"] = values["tracestate"]
    found = trace.get_current_span(_format.extract(carried, Context()))
    context = found.get_span_context()
    return context if context.is_valid else None
