"""Sentry gets a transaction for each attempt and one event for a call that fails."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from cloudtask import call, current, task
from cloudtask.contrib.sentry import Sentry, monitors
from cloudtask.schedules import Schedule, declare
from cloudtask.schedules.declared import _declared
from cloudtask.testing import run_queued
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__({})
        self.items: list[tuple[str, dict[str, Any]]] = []

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            self.items.append((item.type, item.payload.json))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for found, payload in self.items if found == kind]

    def tasks(self) -> list[dict[str, Any]]:
        """The transactions of tasks; those of Django are for the URL."""
        return [
            one
            for one in self.of("transaction")
            if one["contexts"]["trace"]["op"] == "queue.task"
        ]


@pytest.fixture
def sentry(carriers):
    carriers("cloudtask.contrib.sentry.Sentry")
    transport = Kept()
    sentry_sdk.init(
        dsn="https://key@sentry.example/1",
        traces_sample_rate=1.0,
        transport=transport,
    )
    yield transport
    sentry_sdk.get_client().close(timeout=0)  # ends its threads
    sentry_sdk.get_global_scope().set_client(None)


checking_in = Sentry(check_ins=True)


@pytest.fixture
def nightly():
    """Schedules of the test alone."""
    before = dict(_declared)
    _declared.clear()
    declare(decline._self_definition, DECLINED)
    declare(end._self_definition, timedelta(hours=12))
    yield
    _declared.clear()
    _declared.update(before)


@task(max_attempts=3)
def decline(user, password):
    raise ValueError("declined")


@task
def pass_on():
    end.defer()


@task
def end():
    pass


@task
def visit(author):
    pass


def trace_of(transaction):
    return transaction["contexts"]["trace"]["trace_id"]


def test_three_attempts_are_three_transactions_of_one_trace_and_one_event(sentry):
    with sentry_sdk.start_transaction(name="checkout", op="test") as checkout:
        receipt = decline.using(queue="mail").defer("ada", password="hunter2")
    run_queued(errors="retry", via="http")

    attempts = sentry.tasks()
    assert [one["transaction"] for one in attempts] == [decline.path] * 3
    assert {one["transaction_info"]["source"] for one in attempts} == {"task"}
    assert {trace_of(one) for one in attempts} == {checkout.trace_id}
    [event] = sentry.of("event")
    assert event["transaction"] == decline.path
    assert str(event["tags"]["cloudtask.attempt"]) == "3"
    assert event["contexts"]["trace"]["trace_id"] == checkout.trace_id
    assert "hunter2" not in repr(attempts)

    statuses = [one["contexts"]["trace"]["status"] for one in attempts]
    assert statuses == ["internal_error"] * 3
    for number, one in enumerate(attempts):
        [process] = [s for s in one["spans"] if s["op"] == "queue.process"]
        data = process["data"]
        assert data["messaging.message.id"] == receipt.id
        assert data["messaging.destination.name"] == "mail"
        assert data["messaging.message.retry.count"] == number
        assert data["messaging.message.receive.latency"] >= 0
        assert data["messaging.system"] == "gcp_cloud_tasks"
        assert data["cloudtask.outcome"] == ("exhausted" if number == 2 else "failed")


def test_the_caller_has_a_span_for_each_enqueue(sentry):
    with sentry_sdk.start_transaction(name="checkout", op="test"):
        receipt = end.defer()
        end.defer_many([call(), call()])
    [checkout] = sentry.of("transaction")
    one, many = [s for s in checkout["spans"] if s["op"] == "queue.publish"]
    assert one["data"]["messaging.message.id"] == receipt.id
    assert one["data"]["messaging.destination.name"] == "default"
    assert many["data"]["messaging.batch.message_count"] == 2


def test_a_task_that_a_task_defers_is_in_the_same_trace(sentry):
    pass_on.defer()
    run_queued(via="http")
    first, second = sentry.tasks()
    assert trace_of(first) == trace_of(second)
    assert [s["op"] for s in first["spans"] if s["op"] == "queue.publish"] == [
        "queue.publish"
    ]


def test_two_calls_of_two_callers_are_in_two_traces(sentry):
    for _ in range(2):
        with sentry_sdk.start_transaction(name="checkout", op="test"):
            end.defer()
    run_queued(via="http")
    assert len({trace_of(one) for one in sentry.tasks()}) == 2


def test_steps_of_a_run_are_in_the_trace_of_its_caller(sentry):
    Author.objects.create(name="a")
    with sentry_sdk.start_transaction(name="checkout", op="test") as checkout:
        run = visit.iterate(Author.objects.all(), finalize=end)
    run_queued(via="http")
    steps = sentry.tasks()
    assert [one["transaction"] for one in steps] == [
        "cloudtask.plan",
        "cloudtask.walk",
        "cloudtask.finalize",
    ]
    assert {trace_of(one) for one in steps} == {checkout.trace_id}
    [walk] = [s for s in steps[1]["spans"] if s["op"] == "queue.process"]
    assert walk["data"]["cloudtask.run"] == run.id
    assert walk["data"]["cloudtask.rows"] == 1


def test_without_a_set_up_sdk_calls_run_as_they_would(carriers):
    carriers("cloudtask.contrib.sentry.Sentry")
    see.defer()
    run_queued()
    assert attempts == [1]


attempts: list[int] = []


@task
def see():
    attempts.append(current().attempt)


DECLINED = Schedule("30 2 * * *", tz="Europe/Paris", args=["u", "p"], key="Decline!")


def test_a_call_of_a_schedule_checks_in_once_and_ends_with_its_last_attempt(
    sentry, carriers, nightly
):
    carriers("tests.carriers.test_sentry.checking_in")
    end.defer()  # not of a schedule
    run_queued(until=timedelta(days=1), errors="retry", via="http")

    found = defaultdict(list)
    for one in sentry.of("check_in"):
        found[one["check_in_id"]].append(one)
    statuses = {
        (notes[0]["monitor_slug"], *(one["status"] for one in notes))
        for notes in found.values()
    }
    slug = monitors.slug_of("Decline!")
    assert statuses == {
        (slug, "in_progress", "error"),
        ("tests-carriers-test_sentry-end", "in_progress", "ok"),
    }
    assert len(found) == 3  # one of a day, two of its halves
    notes = sentry.of("check_in")
    configs = {one["monitor_slug"]: one["monitor_config"] for one in notes}
    assert configs[slug]["schedule"] == {"type": "crontab", "value": "30 2 * * *"}
    assert configs[slug]["timezone"] == "Europe/Paris"
    [other] = [one for name, one in configs.items() if name != slug]
    assert other["schedule"] == {"type": "interval", "value": 720, "unit": "minute"}


def test_without_being_asked_no_call_checks_in(sentry, nightly):
    run_queued(until=timedelta(days=1), errors="collect")
    assert sentry.tasks()
    assert sentry.of("check_in") == []


@pytest.mark.parametrize(
    "key", ["shop.tasks.nightly", "Nightly report", "x" * 200, "été", "a_b-c"]
)
def test_the_name_of_a_monitor_is_one_that_sentry_takes(key):
    slug = monitors.slug_of(key)
    assert re.fullmatch(r"[a-z0-9_-]{1,50}", slug)
    assert slug != monitors.slug_of(key + "2")
