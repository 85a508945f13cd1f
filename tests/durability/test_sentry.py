"""Sentry gets one event for a call that fails for good, named after the task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudtask import task

sentry_sdk = pytest.importorskip("sentry_sdk")

pytestmark = pytest.mark.django_db(databases="__all__")


@task(max_attempts=3)
def decline(user: str, password: str) -> None:
    raise ValueError("declined")


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """The events that the SDK, with its usual settings, would send."""
    found: list[dict[str, Any]] = []

    def keep(event: dict[str, Any], hint: object) -> None:
        found.append(event)

    sentry_sdk.init(dsn="https://key@sentry.example/1", before_send=keep)
    yield found
    sentry_sdk.get_client().close(timeout=0)  # ends its threads
    sentry_sdk.get_global_scope().set_client(None)


def test_one_event_for_three_attempts(world, events):
    decline.using(queue="mail").defer("ada", password="hunter2")
    [message] = world.queue.messages
    statuses = [world.deliver(message, retries=n) for n in range(3)]

    assert statuses == [500, 500, 200]
    [event] = events
    assert event["transaction"] == decline.path
    assert event["tags"]["cloudtask.id"] == message.id
    assert event["tags"]["cloudtask.queue"] == "mail"
    assert str(event["tags"]["cloudtask.attempt"]) == "3"
    [raised] = event["exception"]["values"]
    assert raised["type"] == "ValueError"
    frames = raised["stacktrace"]["frames"]
    assert frames[-1]["function"] == "decline"
    ours = [frame for frame in frames if frame["function"] != "decline"]
    assert "hunter2" not in repr(ours)


def test_a_setting_asks_for_an_event_for_each_attempt(world, events, configure):
    configure(REPORT_RETRIES=True)
    decline.defer("ada", password="x")
    [message] = world.queue.messages
    for retries in range(3):
        world.deliver(message, retries=retries)

    assert [str(one["tags"]["cloudtask.attempt"]) for one in events] == ["1", "2", "3"]
