"""A connection that has fallen silent costs one short try, and never a second task."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from django.db import transaction

from cloudtask import call
from cloudtask.clients import Clients, ran_out_of_time
from cloudtask.sending import relay
from cloudtask.stores.datastore import DatastoreStore
from tests.durability.left import leave_behind
from tests.support import clock
from tests.support.proxy import DatastoreProxy
from tests.support.service import Refuse, Service
from tests.support.silence import SilentWay, silent_way
from tests.testapp.tasks import note, small_note


@pytest.fixture
def way(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentWay]:
    """A way to the service on which a connection has worked, and fallen silent."""
    with silent_way(service.address) as found:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", found.address)
        small_note.defer("first")
        service.calls.clear()
        found.fall_silent()
        yield found


def test_defer_takes_another_connection(service: Service, way: SilentWay) -> None:
    names = [small_note.defer(str(n)).name for n in range(3)]

    assert service.calls == ["CreateTask"] * 3
    assert set(names) < set(service.waiting("default"))
    assert way.connections == 2


def test_defer_many_takes_another_connection(service: Service, way: SilentWay) -> None:
    receipts = small_note.defer_many([call(str(n)) for n in range(20)])

    assert len(service.waiting("default")) == 1 + len(receipts)
    assert way.connections == 2


@pytest.mark.django_db(transaction=True)
def test_a_commit_takes_another_connection(service: Service, way: SilentWay) -> None:
    with transaction.atomic():
        note.defer("a")
        note.defer("b")

    assert len(service.waiting("default")) == 3
    assert way.connections == 2


@pytest.mark.django_db(transaction=True)
def test_the_relay_takes_another_connection(service: Service, way: SilentWay) -> None:
    left = leave_behind(3)

    with clock.ahead(60):
        assert relay.relay() == relay.RelayReport(sent=3)

    assert set(left) < set(service.waiting("default"))
    assert len(service.waiting("default")) == 1 + len(left)
    assert way.connections == 2


def test_an_answer_that_got_lost_makes_no_second_task(
    service: Service, way: SilentWay
) -> None:
    """The task was created; then its connection ran out of time."""
    service.replies = [Refuse(grpc.StatusCode.DEADLINE_EXCEEDED, creates=True)]
    name = small_note.using(name="once").defer("a").name

    assert service.waiting("default").count(name) == 1


def test_the_store_in_datastore_takes_another_connection(
    faults: DatastoreProxy,
    datastore_store: DatastoreStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with silent_way(faults.address) as found:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", found.address)
        datastore_store.save_payload("a", b"x")
        found.fall_silent()
        datastore_store.save_payload("b", b"y")

        assert datastore_store.load_payload("b") == b"y"
        assert found.connections == 2


# The clients


def test_the_first_try_is_short_only_on_a_connection_that_has_worked() -> None:
    made: Clients[object] = Clients(lambda place: object())
    client = made.at("here")
    assert made.seconds_for(client, 10.0) == 10.0
    made.answered(client)
    assert made.seconds_for(client, 10.0) < 10.0
    made.replace(client)
    assert made.at("here") is not client
    assert made.seconds_for(made.at("here"), 10.0) == 10.0


def test_a_client_that_was_replaced_already_is_not_replaced_again() -> None:
    made: Clients[object] = Clients(lambda place: object())
    old = made.at("here")
    made.replace(old)
    new = made.at("here")
    made.replace(old)

    assert made.at("here") is new


def test_what_runs_out_of_time() -> None:
    assert ran_out_of_time(TimeoutError())
    assert not ran_out_of_time(ValueError())
