"""A tracer, a meter and a server span for each request, all in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from cloudtask.contrib.opentelemetry import Trace

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
reader = InMemoryMetricReader()
meters = MeterProvider([reader])
tracer = provider.get_tracer("tests")

linked = Trace(tracer_provider=provider, meter_provider=meters)
child = Trace(relation="parent", tracer_provider=provider)
apart = Trace(relation="none", tracer_provider=provider)
flushed = Trace(flush=1, tracer_provider=provider)


def server_span(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Middleware that traces requests as the instrumentation of Django does."""

    def traced(request: Any) -> Any:
        with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            return get_response(request)

    return traced


def spans(name: str) -> list[ReadableSpan]:
    """The finished spans of this name, in the order of their starts."""
    found = [one for one in exporter.get_finished_spans() if one.name == name]
    return sorted(found, key=lambda one: one.start_time or 0)


def span(name: str) -> ReadableSpan:
    [found] = spans(name)
    return found


def by_id(span_id: int) -> ReadableSpan:
    [found] = [
        one for one in exporter.get_finished_spans() if one.context.span_id == span_id
    ]
    return found


def links_of(one: ReadableSpan) -> list[str]:
    """The names of the spans that a span links to."""
    return [by_id(link.context.span_id).name for link in one.links]


def parent_of(one: ReadableSpan) -> str | None:
    return by_id(one.parent.span_id).name if one.parent else None


def points(metric: str) -> list[Any]:
    """The data points of a metric."""
    data = reader.get_metrics_data()
    return [
        point
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for one in scope.metrics
        if one.name == metric
        for point in one.data.data_points
    ]
