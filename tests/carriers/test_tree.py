"""One tree of spans: from a request over an outbox, a relay in another process, three
attempts and the shards of a run to its finalize; with each store."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from collections import defaultdict
from typing import Any

import pytest
from django.db import connections, transaction
from opentelemetry.trace import SpanKind

from cloudtask import Retry, current, task
from cloudtask.models import OutboxMessage
from cloudtask.testing import run_queued
from cloudtask.transports import memory
from tests.carriers import tracing
from tests.carriers.tracing import by_id, links_of, parent_of, span, spans
from tests.durability.database import committing
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

LINKED = "tests.carriers.tracing.linked"
ROWS = 8


@pytest.fixture(autouse=True)
def _traced(anywhere, carriers, settings):
    carriers(LINKED, **anywhere)
    settings.MIDDLEWARE = ["tests.carriers.tracing.server_span", *settings.MIDDLEWARE]
    handed_over.clear()
    tracing.exporter.clear()
    yield
    tracing.exporter.clear()


@task(max_attempts=3)
def prepare():
    if current().attempt < 3:
        raise ValueError("not yet")
    visit.iterate(Author.objects.all(), finalize=end, shards=2)


handed_over: set[str] = set()


@task
def visit(author):
    """The third row of each shard ends its first leg."""
    if author.name.endswith("2") and author.name not in handed_over:
        handed_over.add(author.name)
        raise Retry(delay=1)


@task
def end():
    pass


def test_each_span_leads_to_the_one_before_it(monkeypatch, tmp_path, client):
    with committing(tmp_path):
        Author.objects.bulk_create(
            Author(name=f"{shard}-{row}") for shard in "ab" for row in range(ROWS // 2)
        )
        with monkeypatch.context() as patched:
            patched.setattr(memory.MemoryTransport, "send", _down)
            with _request(), transaction.atomic():
                prepare.defer()
        OutboxMessage.objects.update(due_at="2020-01-01T00:00:00Z")
        done = _relayed_elsewhere()
        [body] = map(b64decode, done["bodies"])
        answers = [_delivered(client, body, retries) for retries in range(3)]
        run_queued(via="http")
    assert answers == [500, 500, 200]

    create = span(f"create {prepare.path}")
    assert parent_of(create) == "checkout"
    [sent] = done["spans"]
    [link] = sent["links"]
    assert sent["parent_id"] is None
    assert int(link["context"]["span_id"], 16) == create.context.span_id
    assert int(sent["context"]["trace_id"], 16) != create.context.trace_id

    attempts = spans(f"process {prepare.path}")
    assert [one.attributes["cloudtask.attempt"] for one in attempts] == [1, 2, 3]
    for one in attempts:
        assert links_of(one) == [create.name]

    begun = span(f"create {visit.path}")
    assert by_id(begun.parent.span_id) is attempts[2]
    plan = span("process cloudtask.plan")
    assert _linked(plan) == [begun, attempts[2]]

    legs: defaultdict[Any, list[Any]] = defaultdict(list)
    for leg in spans("process cloudtask.walk"):
        legs[leg.attributes["cloudtask.shard"]].append(leg)
    assert sorted(legs) == [0, 1]
    for first, second in legs.values():
        assert _linked(first) == [begun, plan]
        assert _linked(second) == [begun, first]
        assert [one.attributes["cloudtask.leg"] for one in (first, second)] == [0, 1]
    rows = [leg.attributes["cloudtask.rows"] for two in legs.values() for leg in two]
    assert sum(rows) == ROWS

    final = span("process cloudtask.finalize")
    caller, before = _linked(final)
    assert caller is begun
    assert before in [second for _, second in legs.values()]
    everything = [*attempts, plan, *legs[0], *legs[1], final]
    assert {parent_of(one) for one in everything} == {"request"}


def _request():
    return tracing.tracer.start_as_current_span("checkout", kind=SpanKind.SERVER)


def _linked(one):
    return [by_id(link.context.span_id) for link in one.links]


def _down(self, *messages):
    raise ConnectionError("Cloud Tasks is down.")


def _relayed_elsewhere():
    names = {one.alias: str(one.settings_dict["NAME"]) for one in connections.all()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.carriers.relaying", json.dumps(names)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _delivered(client, body, retries):
    client.raise_request_exception = False
    answer = client.post(
        f"/_cloudtask/run/{prepare.path}",
        body,
        content_type="application/octet-stream",
        headers={
            "X-AppEngine-QueueName": "default",
            "X-AppEngine-TaskRetryCount": str(retries),
        },
    )
    return answer.status_code
