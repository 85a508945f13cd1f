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

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cloudtask.carriers import Enqueueing, Telemetry
from cloudtask.carriers.protocols import Block, Values
from cloudtask.context import TaskContext
from cloudtask.contrib.opentelemetry.conventions import (
    ATTEMPT,
    BATCH,
    FACTS,
    MAX_ATTEMPTS,
    MESSAGE_ID,
    OUTCOME,
    SCHEMA,
    TASK,
    messaging,
    type_of,
)
from cloudtask.contrib.opentelemetry.measures import Measures
from cloudtask.exceptions import ConfigurationError

__all__ = ["Trace"]

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
            **messaging(operation, what.queue),
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
        attributes = messaging("send", queue)
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
            **messaging("process", context.queue),
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


def _identify(span: Span, receipts: Sequence[Any]) -> None:
    if len(receipts) == 1:
        span.set_attribute(MESSAGE_ID, receipts[0].id)


def _fail(span: Span, error: BaseException) -> None:
    span.set_attributes(type_of(error))
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
