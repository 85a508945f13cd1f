"""A relay reports what waits, once a minute, in the log and as metrics."""

from __future__ import annotations

import json
import logging
import time

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from cloudtask import gauges, stores, task
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import OutboxMessage
from cloudtask.stores.database import DatabaseStore
from cloudtask.testing import run_queued
from tests.carriers.tracing import points
from tests.dashboard import seeding
from tests.support import clock
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def _due(carriers):
    carriers()
    gauges.reporting.due = 0.0
    yield
    gauges.reporting.due = 0.0


@task(max_attempts=1)
def fail():
    raise ValueError("broken")


@task
def visit(author):
    pass


def waiting(number):
    with transaction.atomic():
        for _ in range(number):
            fail.defer()


def relayed():
    call_command("cloudtask_relay", "--database", "default", "--limit", "0")


def lines(caplog):
    return [one for one in caplog.records if one.name == "cloudtask.gauges"]


def test_the_gauges_count_outbox_failed_tasks_and_runs():
    fail.defer()
    run_queued(errors="retry")
    waiting(3)
    [parked, *_] = OutboxMessage.objects.order_by("key")
    OutboxMessage.objects.filter(key=parked.key).update(state="parked")
    clock.move(90)
    visit.iterate(Author.objects.all())
    paused = visit.iterate(Author.objects.all())
    paused.pause()

    found = gauges.measured()
    assert (found.outbox_rows, found.outbox_parked) == (4, 1)  # 2 calls and 2 plans
    assert 90 <= found.outbox_age < 600
    assert found.failed == 1
    assert (found.runs["waiting"], found.runs["paused"]) == (1, 1)
    assert found.runs_quiet == 0
    clock.move(3600)
    assert gauges.measured().runs_quiet == 1


def test_the_gauges_count_rows_that_failed_for_good():
    run_id = seeding.run_of(stores.store(), 1)
    seeding.failed_row(stores.store(), run_id, "7")

    assert gauges.measured().rows_failed == 1


def test_without_anything_all_gauges_are_zero():
    found = gauges.measured()
    assert (found.outbox_rows, found.outbox_age, found.outbox_parked) == (0, 0, 0)
    assert (found.failed, found.runs_quiet, found.rows_failed) == (0, 0, 0)
    assert set(found.runs.values()) == {0}


def test_a_relay_logs_one_line_of_json_a_minute(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "cloudtask.gauges")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waiting(2)
    relayed()
    relayed()
    [line] = lines(caplog)
    found = json.loads(line.getMessage())["cloudtask"]
    assert found["outbox_rows"] == 2
    assert line.json_fields == {"cloudtask": found}
    now += 60
    relayed()
    assert len(lines(caplog)) == 2


def test_the_relay_by_url_reports_too(caplog, client, settings):
    settings.CLOUDTASK = {**settings.CLOUDTASK, "RELAY_TOKEN": "let me in"}
    caplog.set_level(logging.INFO, "cloudtask.gauges")
    answer = client.post(
        "/_cloudtask/relay/", headers={"Authorization": "Bearer let me in"}
    )
    assert answer.status_code == 200
    assert len(lines(caplog)) == 1


def test_gauges_that_can_not_be_measured_do_not_stop_the_relay(
    caplog, monkeypatch, capsys
):
    def unavailable(self, *args, **kwargs):
        raise EnqueueUnavailable("The store is down.")

    monkeypatch.setattr(DatabaseStore, "count_failed", unavailable)
    relayed()
    assert "The outbox has nothing to send." in capsys.readouterr().out
    assert "The gauges could not be measured." in caplog.text


def test_the_gauges_are_metrics_of_opentelemetry(carriers):
    carriers("tests.carriers.tracing.linked")
    waiting(2)
    visit.iterate(Author.objects.all()).pause()
    relayed()
    assert [one.value for one in points("cloudtask.outbox.rows")] == [3]
    assert points("cloudtask.outbox.age")[0].value >= 0
    by_state = {
        one.attributes["cloudtask.run.state"]: one.value
        for one in points("cloudtask.runs")
    }
    assert by_state["paused"] == 1
    assert by_state["failed"] == 0


def test_few_queries_count_all(django_assert_max_num_queries):
    waiting(2)
    stores.store()
    with django_assert_max_num_queries(20, connection=connection):
        gauges.measured()
