"""The store's options, its client, and how errors are told."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from cloudtask import datastore_emulator, envelope, runtime, stores
from cloudtask.exceptions import (
    CloudTaskError,
    ConfigurationError,
    EnqueueUnavailable,
    PayloadLost,
)
from cloudtask.message import Delivery
from cloudtask.stores import store as configured_store
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.client import TRIES, clients
from cloudtask.testing import queued
from cloudtask.transports import memory
from tests.stores.datastore_fixtures import PROJECT
from tests.stores.runs_making import RUN, create, load
from tests.support import clock
from tests.support.emulators import Emulators
from tests.support.proxy import DatastoreProxy
from tests.testapp.tasks import calls, note

MIB = 1024 * 1024
PATH = "cloudtask.stores.datastore.DatastoreStore"


def test_the_setting_names_the_store(settings: Any) -> None:
    settings.CLOUDTASK = {"STORE": {"BACKEND": PATH, "NAMESPACE": "n"}}

    assert isinstance(configured_store(), DatastoreStore)


def test_the_project_is_that_of_the_setting_unless_given(settings: Any) -> None:
    settings.CLOUDTASK = {"PROJECT": "of-the-setting"}

    assert DatastoreStore({}).place.project == "of-the-setting"
    assert DatastoreStore({"PROJECT": "given"}).place.project == "given"


def test_the_default_database_may_be_named() -> None:
    assert DatastoreStore({"DATABASE": "(default)"}).place.database is None
    assert DatastoreStore({"DATABASE": "tasks"}).place.database == "tasks"


def test_writes_join_no_transaction_of_a_database() -> None:
    assert DatastoreStore({}).database is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NAMESPCE": "n"}, "NAMESPACE"),
        ({"NAMESPACE": 7}, "NAMESPACE"),
        ({"NAMESPACE": "a b"}, "up to 100 letters"),
        ({"PROJECT": "a/b"}, "project id"),
        ({"DATABASE": "Tasks"}, "database id"),
        ({"ALIAS": "default"}, "ALIAS"),
    ],
)
def test_options_that_are_wrong_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DatastoreStore(options)


@pytest.mark.parametrize("name", ["NAMESPACE", "DATABASE"])
def test_namespaces_and_databases_are_apart(
    faults: DatastoreProxy, datastore_store: DatastoreStore, name: str
) -> None:
    if (faults.kind, name) == ("datastore", "DATABASE"):
        pytest.skip("that emulator has one database")
    first, second = (
        DatastoreStore({"PROJECT": PROJECT, name: f"{name.lower()}-{number}"})
        for number in (1, 2)
    )
    create(first)

    assert second.load_run(RUN) is None
    assert second.list_runs(states=[], limit=9) == []
    first.delete_run(RUN)


# What it refuses


def test_a_run_is_created_once(datastore_store: DatastoreStore) -> None:
    create(datastore_store, description=b"first")

    with pytest.raises(ValueError, match="already"):
        create(datastore_store, description=b"second")
    assert load(datastore_store).description == b"first"


# The client


def test_a_client_is_made_once_and_again_after_a_fork(
    datastore_store: DatastoreStore,
) -> None:
    place = datastore_store.place
    first = clients.get(place)
    assert clients.get(place) is first

    clients.forget()

    assert clients.get(place) is not first


def test_a_child_of_a_fork_makes_a_client_of_its_own() -> None:
    script = """
import os
from cloudtask.stores.datastore.client import Place, clients
place = Place("test-project", None, None)
before = clients.get(place)
child = os.fork()
if child == 0:
    os._exit(0 if clients.get(place) is not before else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environ = {**os.environ, "DATASTORE_EMULATOR_HOST": "127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, check=False)

    assert done.returncode == 0


def test_google_is_not_imported_before_it_is_needed() -> None:
    script = """
import sys
import cloudtask.stores.datastore
found = [name for name in sys.modules if name.split(".")[0] in ("google", "grpc")]
sys.exit(", ".join(found) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


# Errors


def test_a_server_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATASTORE_EMULATOR_HOST", "127.0.0.1:1")
    store = DatastoreStore({"PROJECT": "nowhere"}, sleep=lambda seconds: None)

    with pytest.raises(EnqueueUnavailable) as raised:
        store.save_payload("k", b"data")
    where = "nowhere, database (default), namespace (empty), emulator 127.0.0.1:1"
    assert f"Saving payload k in Datastore ({where}) failed" in str(raised.value)
    assert "start it, or unset DATASTORE_EMULATOR_HOST" in str(raised.value)


def test_without_a_project_the_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a machine without Google: PATH has no gcloud that could name one."""
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "DATASTORE_DATASET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("DATASTORE_EMULATOR_HOST", "127.0.0.1:1")

    with pytest.raises(ConfigurationError) as raised:
        DatastoreStore({}).load_run(RUN)
    assert "set CLOUDTASK['STORE']['PROJECT']" in str(raised.value)


def test_a_payload_of_another_namespace_is_lost_by_name(
    datastore_store: DatastoreStore,
) -> None:
    datastore_store.save_payload("k", b"data")
    other = DatastoreStore({"PROJECT": PROJECT, "NAMESPACE": "wrong"})

    with pytest.raises(PayloadLost, match=f"'k' .*{PROJECT}, .* namespace wrong"):
        other.load_payload("k")


REFUSALS = {
    "no rights": (StatusCode.PERMISSION_DENIED, "", "the role roles/datastore.user"),
    "no such database": (StatusCode.NOT_FOUND, "", "a project and a database that are"),
    "native mode": (
        StatusCode.INVALID_ARGUMENT,
        "only in Datastore Mode",
        "This is Firestore in native mode",
    ),
    "unavailable": (StatusCode.UNAVAILABLE, "", "Trying again may help"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", REFUSALS)
def test_nothing_is_acknowledged_that_the_store_does_not_take(
    faults: DatastoreProxy,
    datastore_store: DatastoreStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """The call is not enqueued. The delivery of an earlier one fails, and a later
    delivery of it runs."""
    code, text, advice = REFUSALS[name]
    at_once = note.using(transactional=False)
    monkeypatch.setattr(stores, "_made", lambda settings: datastore_store)
    at_once.defer(os.urandom(2 * MIB))
    entry = memory.queue().pop()
    assert entry is not None
    message = envelope.unseal(entry.body, now=clock.now())
    faults.fail_next("Lookup", code, message=text, times=4 * TRIES)

    with pytest.raises(CloudTaskError, match=advice):
        at_once.defer(os.urandom(2 * MIB))
    with pytest.raises(CloudTaskError, match=advice):
        runtime.execute(message, Delivery())
    assert (queued(), calls) == ([], [])

    faults.reset()
    runtime.execute(message, Delivery())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (StatusCode.UNAVAILABLE, EnqueueUnavailable),
        (StatusCode.DEADLINE_EXCEEDED, EnqueueUnavailable),
        (StatusCode.INTERNAL, EnqueueUnavailable),
        (StatusCode.RESOURCE_EXHAUSTED, EnqueueUnavailable),
        (StatusCode.PERMISSION_DENIED, ConfigurationError),
        (StatusCode.UNAUTHENTICATED, ConfigurationError),
        (StatusCode.NOT_FOUND, ConfigurationError),
        (StatusCode.FAILED_PRECONDITION, ConfigurationError),
        (StatusCode.INVALID_ARGUMENT, CloudTaskError),
    ],
)
def test_errors_are_told_in_our_words(
    faults: DatastoreProxy,
    datastore_store: DatastoreStore,
    code: StatusCode,
    expected: type[Exception],
) -> None:
    faults.fail_next("Lookup", code, times=TRIES)

    with pytest.raises(expected, match="Loading iteration") as raised:
        datastore_store.load_run(RUN)

    assert raised.value.__cause__ is not None
    namespace = datastore_store.place.namespace
    assert str(raised.value).startswith("Loading iteration")
    assert (
        f"in Datastore ({PROJECT}, database (default), namespace {namespace}, emulator "
        f"{faults.address}) failed: {code.name}"
    ) in str(raised.value)


@pytest.mark.datastore
def test_firestore_in_native_mode_is_named(
    emulators: Emulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulators.require("firestore")
    native = replace(datastore_emulator.KINDS["firestore"], options=())
    monkeypatch.setitem(datastore_emulator.KINDS, "native", native)
    running = datastore_emulator.start("native")
    monkeypatch.setenv(datastore_emulator.VARIABLE, running.address)
    store = DatastoreStore({"PROJECT": "test-project"})
    try:
        with pytest.raises(ConfigurationError, match="Firestore in native mode"):
            store.save_payload("k", b"data")
    finally:
        running.stop()


def test_without_credentials_the_settings_are_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("DATASTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    with pytest.raises(ConfigurationError, match="DATASTORE_EMULATOR_HOST"):
        DatastoreStore({"PROJECT": "mine"}).load_run(RUN)
