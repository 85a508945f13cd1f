"""Spans lead from a request to the last attempt, and from iterate() to finalize."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
from django.db import connection, transaction
from opentelemetry.trace import SpanKind, StatusCode

from cloudtask import Retry, call, current, task
from cloudtask.contrib.opentelemetry import Trace
from cloudtask.exceptions import ConfigurationError
from cloudtask.models import OutboxMessage
from cloudtask.sending.relay import relay
from cloudtask.testing import run_queued
from cloudtask.transports import memory
from tests.carriers import tracing
from tests.carriers.tracing import by_id, links_of, parent_of, points, span, spans
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

LINKED = "tests.carriers.tracing.linked"


@pytest.fixture(autouse=True)
def _traced(carriers, settings):
    carriers(LINKED)
    settings.MIDDLEWARE = ["tests.carriers.tracing.server_span", *settings.MIDDLEWARE]
    tracing.exporter.clear()
    yield
    tracing.exporter.clear()


def request():
    return tracing.tracer.start_as_current_span("checkout", kind=SpanKind.SERVER)


@task(max_attempts=3)
def charge(order):
    raise ValueError("declined")


@task
def ship(order):
    if current().attempt == 1:
        raise Retry(delay=1)


@task
def visit(author):
    if author.name == "again" and not seen:
        seen.append(author)
        raise Retry(delay=1)


@task
def end():
    pass


@task
def below():
    end.defer()


seen: list[object] = []


def _down(self, *messages):
    raise ConnectionError("Cloud Tasks is down.")


@pytest.mark.django_db(transaction=True)
def test_a_call_is_traced_from_its_request_through_outbox_and_relay_to_each_attempt(
    monkeypatch,
):
    monkeypatch.setattr(memory.MemoryTransport, "send", _down)
    with request(), transaction.atomic():
        charge.defer(7)
    monkeypatch.undo()
    OutboxMessage.objects.update(due_at="2020-01-01T00:00:00Z")
    _in_a_thread(lambda: relay("default"))
    run_queued(errors="retry", via="http")

    create = span(f"create {charge.path}")
    assert parent_of(create) == "checkout"
    assert create.kind is SpanKind.PRODUCER
    # The commit tried to send it, and failed; the relay has another trace.
    failed, sent = spans("send default")
    assert parent_of(failed) == "checkout"
    assert sent.parent is None
    assert sent.context.trace_id != create.context.trace_id
    for one in (failed, sent):
        assert one.kind is SpanKind.CLIENT
        assert links_of(one) == [create.name]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "ConnectionError"

    attempts = spans(f"process {charge.path}")
    assert [one.attributes["cloudtask.attempt"] for one in attempts] == [1, 2, 3]
    outcomes = [one.attributes["cloudtask.outcome"] for one in attempts]
    assert outcomes == ["failed", "failed", "exhausted"]
    for one in attempts:
        assert parent_of(one) == "request"
        assert [link.context.span_id for link in one.links] == [create.context.span_id]
        assert one.kind is SpanKind.CONSUMER
        assert one.status.status_code is StatusCode.ERROR
        assert one.attributes["error.type"] == "ValueError"
        assert "declined" in str([dict(event.attributes) for event in one.events])
    assert len({one.context.trace_id for one in attempts}) == 3
    ids = {one.attributes["messaging.message.id"] for one in [create, *attempts]}
    assert len(ids) == 1


def _in_a_thread(work):
    """Run `work` in a context of its own, as another process has."""

    def run():
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_run_is_traced_from_iterate_over_plan_and_legs_to_finalize():
    seen.clear()
    for name in ("a", "again", "b"):
        Author.objects.create(name=name)
    with request():
        run = visit.iterate(Author.objects.all(), finalize=end, shards=1)
    run_queued(via="http")

    create = span(f"create {visit.path}")
    assert parent_of(create) == "checkout"
    assert create.attributes["cloudtask.run.id"] == run.id
    plan = span("process cloudtask.plan")
    first, second = spans("process cloudtask.walk")
    final = span("process cloudtask.finalize")
    assert links_of(plan) == [create.name]
    assert links_of(first) == [create.name, plan.name]
    assert links_of(second) == [create.name, first.name]
    assert links_of(final) == [create.name, second.name]
    assert by_id(second.links[1].context.span_id) is first
    assert [one.attributes["cloudtask.leg"] for one in (first, second)] == [0, 1]
    assert [one.attributes["cloudtask.rows"] for one in (first, second)] == [2, 1]
    for one in (plan, first, second, final):
        assert one.attributes["cloudtask.run.id"] == run.id
        assert one.status.status_code is StatusCode.UNSET
        assert parent_of(one) == "request"
    for one in (first, second):
        assert one.attributes["cloudtask.shard"] == 0
        assert one.attributes["cloudtask.run.task"] == visit.path


def test_a_direct_call_has_one_span_at_its_caller():
    with request():
        receipt = ship.using(transactional=False).defer(1)
    send = span(f"send {ship.path}")
    assert send.kind is SpanKind.PRODUCER
    assert send.attributes == {
        "messaging.system": "gcp_cloud_tasks",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": receipt.id,
        "cloudtask.task": ship.path,
    }
    assert spans("send default") == []
    assert send.instrumentation_scope.schema_url.endswith("/1.44.0")


def test_a_batch_has_one_span_for_all():
    with request():
        charge.using(transactional=False).defer_many([call(n) for n in range(3)])
    send = span(f"send {charge.path}")
    assert send.attributes["messaging.batch.message_count"] == 3
    run_queued(errors="collect")
    assert {tuple(links_of(one)) for one in spans(f"process {charge.path}")} == {
        (send.name,)
    }


@pytest.mark.django_db(transaction=True)
def test_a_request_for_the_rows_of_a_commit_links_to_each_call():
    with request(), transaction.atomic():
        for number in range(3):
            end.using(name=f"n{number}").defer()
    sent = span("send default")
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert links_of(sent) == [f"create {end.path}"] * 3
    assert len({link.context.span_id for link in sent.links}) == 3


@pytest.mark.django_db(transaction=True)
def test_a_request_links_to_no_more_calls_than_the_sdk_keeps():
    with request(), transaction.atomic():
        for _ in range(130):
            end.defer()
    assert max(len(one.links) for one in spans("send default")) == 128


def test_a_retry_is_no_error_and_its_successor_links_to_the_caller():
    with request():
        ship.defer(1)
    run_queued()
    first, second = spans(f"process {ship.path}")
    assert first.attributes["cloudtask.outcome"] == "retried"
    assert first.status.status_code is StatusCode.UNSET
    assert links_of(first) == links_of(second) == [f"create {ship.path}"]


def test_a_task_that_a_task_defers_is_below_its_span():
    below.defer()
    run_queued()
    create = span(f"create {end.path}")
    assert parent_of(create) == f"process {below.path}"
    assert links_of(span(f"process {end.path}")) == [create.name]


def test_a_delivery_can_be_a_child_of_its_caller(carriers):
    carriers("tests.carriers.tracing.child")
    with request():
        end.defer()
    run_queued(via="http")
    process = span(f"process {end.path}")
    assert parent_of(process) == f"create {end.path}"
    assert process.context.trace_id == span("checkout").context.trace_id
    assert links_of(process) == ["request"]


def test_a_delivery_can_be_apart_from_its_caller(carriers):
    carriers("tests.carriers.tracing.apart")
    with request():
        end.defer()
    run_queued()
    process = span(f"process {end.path}")
    assert (process.parent, process.links) == (None, ())


def test_a_call_without_a_trace_is_traced_from_its_delivery_on(carriers):
    carriers()
    end.defer()
    carriers(LINKED)
    run_queued()
    assert span(f"process {end.path}").links == ()


@pytest.mark.parametrize(
    "traceparent",
    ["", "00-0-0-01", "nonsense", f"00-{'0' * 32}-{'0' * 16}-01", "\ud800"],
    ids=ascii,
)
def test_a_traceparent_that_is_none_is_passed_over(traceparent, monkeypatch):
    monkeypatch.setattr(Trace, "capture", lambda self: {"traceparent": traceparent})
    end.defer()
    run_queued()
    assert span(f"process {end.path}").links == ()


def test_a_refused_call_marks_the_span_of_its_caller():
    with request(), pytest.raises(TypeError):
        end.defer("too many")
    create = span(f"create {end.path}")
    assert create.status.status_code is StatusCode.ERROR
    assert create.attributes["error.type"] == "TypeError"


def test_no_argument_is_in_a_span():
    charge.defer("secret of the order")
    ship.defer_many([call("secret of the order")])
    run_queued(errors="retry")
    spans = tracing.exporter.get_finished_spans()
    assert len(spans) > 4
    assert "secret" not in "".join(one.to_json() for one in spans)


def test_spans_are_exported_at_the_end_of_a_delivery_if_that_is_asked_for(
    carriers, monkeypatch
):
    carriers("tests.carriers.tracing.flushed")
    flushed = []
    monkeypatch.setattr(tracing.provider, "force_flush", flushed.append)
    end.defer()
    run_queued()
    assert flushed == [1000]


def test_the_metrics_count_messages_and_measure_each_attempt():
    charge.using(queue="mail", transactional=False).defer(1)
    run_queued(errors="retry")
    found = {
        (one.attributes["cloudtask.outcome"], one.attributes.get("error.type"))
        for one in _processed()
        if one.attributes["messaging.destination.name"] == "mail"
    }
    assert found == {("failed", "ValueError"), ("exhausted", "ValueError")}
    [sent] = _of("messaging.client.sent.messages", "mail")
    assert sent.value == 1
    [consumed] = _of("messaging.client.consumed.messages", "mail")
    assert consumed.value == 3
    [waited] = _of("cloudtask.task.wait", "mail")
    assert waited.count == 1
    assert waited.min >= 0
    for metric in ("messaging.process.duration", "cloudtask.task.wait"):
        for point in points(metric):
            assert "messaging.message.id" not in point.attributes


def _processed():
    return points("messaging.process.duration")


def _of(metric, queue):
    return [
        one
        for one in points(metric)
        if one.attributes["messaging.destination.name"] == queue
    ]


def test_a_relation_that_is_none_of_the_three_is_refused():
    with pytest.raises(ConfigurationError, match="relation of Trace must be one of"):
        Trace(relation="sibling")


def test_a_provider_that_fails_stops_no_call(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("the SDK is broken")

    monkeypatch.setattr(tracing.linked.tracer, "start_as_current_span", broken)
    caplog.set_level(logging.WARNING)
    end.defer()
    report = run_queued()
    assert [one.outcome.value for one in report.attempts] == ["succeeded"]
    assert "the SDK is broken" in caplog.text


OFF = """
import sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["cloudtask"], SECRET_KEY="x", ROOT_URLCONF="cloudtask.urls",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CLOUDTASK={"TRANSPORT": {"BACKEND": "cloudtask.transports.memory.MemoryTransport"}},
)
django.setup()
from cloudtask import clock, runtime
from cloudtask.deferred import defer
from cloudtask.message import Delivery
from cloudtask.transports import memory
defer(clock.now, _small=True)
outcome = runtime.execute(memory.queue().pop().message, Delivery())
telemetry = ("opentelemetry", "sentry_sdk", "structlog")
print(outcome.value, [name for name in sys.modules if name.startswith(telemetry)])
"""


def test_nothing_of_telemetry_is_imported_without_its_carrier():
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True)
    assert done.stdout.strip() == "succeeded []", done.stderr
