"""An unavailable database: nothing is half-written, and nothing is acknowledged."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings

from cloudtask import call, conf, failpoints
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import FailedTask, Payload, UniqueKey
from tests.durability import queues, tasks
from tests.durability.test_payloads import LARGE
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


@contextmanager
def away(alias: str = "default") -> Iterator[None]:
    """The server of `alias` does not answer: its port is closed, or SQLite's file is in
    a folder that is not there."""
    settings, connection = connections.settings[alias], connections[alias]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nowhere = {"PORT": port}
    if connection.vendor == "sqlite":
        nowhere = {"NAME": "/nowhere/at/all.sqlite3"}
    connections.settings[alias] = {**settings, **nowhere}
    connections[alias] = connections.create_connection(alias)
    try:
        yield
    finally:
        connections[alias].close()
        connections.settings[alias], connections[alias] = settings, connection


@pytest.fixture
def stored_elsewhere(configure) -> None:
    configure(STORE={"BACKEND": conf.DATABASE_STORE, "ALIAS": "other"})


def test_a_large_call_is_refused_while_the_store_is_away(world, stored_elsewhere):
    with away("other"), pytest.raises(EnqueueUnavailable, match="other"):
        tasks.plain.defer("a", LARGE)

    assert world.queue.messages == []
    assert not Payload.objects.using("other").exists()


def test_a_call_that_fits_needs_no_store(world, stored_elsewhere):
    with away("other"):
        tasks.plain.defer("a")
    with away("default"), away("other"):
        tasks.small.defer("b")

    assert len(world.queue.messages) == 2


def test_many_calls_are_refused_as_one_while_the_store_is_away(world, stored_elsewhere):
    with away("other"), pytest.raises(EnqueueUnavailable):
        tasks.plain.defer_many([call("a"), call("b", LARGE)])

    assert world.queue.messages == []


def test_the_callers_transaction_goes_on_when_the_store_is_away(
    world, stored_elsewhere
):
    with transaction.atomic():
        Author.objects.create(name="kept")
        with away("other"), pytest.raises(EnqueueUnavailable):
            tasks.plain.defer("a", LARGE)

    assert Author.objects.count() == 1
    assert world.queue.messages == []


@pytest.mark.parametrize(
    "task",
    [tasks.plain.using(transactional=True), tasks.single],
    ids=["outbox", "unique"],
)
def test_a_call_that_needs_the_database_is_refused_while_it_is_away(world, task):
    with away(), pytest.raises(EnqueueUnavailable):
        task.defer("a")

    assert world.queue.messages == []
    assert not UniqueKey.objects.exists()


def test_a_delivery_is_not_acknowledged_while_the_store_is_away(
    world, stored_elsewhere
):
    tasks.remember.defer(LARGE)
    [message] = world.queue.messages
    with away("other"):
        assert world.deliver(message) == 500
        assert world.deliver(message, retries=1000) == 500
    assert tasks.contexts == []

    assert world.deliver(message, retries=1001) == 200


def test_a_success_is_acknowledged_although_its_payload_can_not_be_removed(
    world, stored_elsewhere, caplog
):
    tasks.plain.defer("a", LARGE)
    [message] = world.queue.messages
    broken = away("other")
    with failpoints.at("execute.after_call", broken.__enter__):
        try:
            assert world.deliver(message) == 200
        finally:
            broken.__exit__(None, None, None)

    assert Author.objects.count() == 1
    assert "were not deleted" in caplog.text


def test_a_last_failure_is_not_acknowledged_while_it_can_not_be_kept(
    world, stored_elsewhere
):
    tasks.fail_thrice.defer()
    [message] = world.queue.messages
    with away("other"):
        assert world.deliver(message, retries=2) == 500

    assert world.deliver(message, retries=3) == 200

    assert FailedTask.objects.using("other").count() == 1


@pytest.mark.parametrize("task", [tasks.once, tasks.single], ids=["atomic", "unique"])
def test_a_delivery_that_needs_the_database_is_tried_again(world, task):
    task.defer("a")
    [message] = world.queue.messages
    with away():
        assert world.deliver(message) == 500

    assert world.deliver(message, retries=1) == 200
    assert Author.objects.count() == 1


def test_a_relay_of_a_database_that_is_away_says_so(world, client):
    client.raise_request_exception = False
    headers = {"Authorization": "Bearer t"}
    with conf_token(world), away():
        assert client.post("/_cloudtask/relay/", headers=headers).status_code == 500
    with conf_token(world):
        assert client.post("/_cloudtask/relay/", headers=headers).status_code == 200


def test_the_command_fails_when_a_database_is_away(world):
    with away(), pytest.raises(CommandError, match="Relaying the outbox"):
        call_command("cloudtask_relay")


@contextmanager
def conf_token(world) -> Iterator[None]:
    with override_settings(
        CLOUDTASK={"TRANSPORT": {"BACKEND": queues.PATH}, "RELAY_TOKEN": "t"}
    ):
        yield
