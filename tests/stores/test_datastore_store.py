"""The store's options, its client, and how errors are told."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode

from cloudtask import datastore_emulator
from cloudtask.exceptions import CloudTaskError, ConfigurationError, EnqueueUnavailable
from cloudtask.stores import store as configured_store
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.client import TRIES, clients
from tests.stores.datastore_fixtures import PROJECT
from tests.stores.runs_making import RUN, create, load
from tests.support.emulators import Emulators
from tests.support.proxy import DatastoreProxy

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

    with pytest.raises(EnqueueUnavailable, match="Saving payload k"):
        store.save_payload("k", b"data")


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
    named = f"({PROJECT}, database (default), emulator {faults.address})"
    assert named in str(raised.value)


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
