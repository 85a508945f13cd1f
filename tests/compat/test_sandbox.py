"""djangae's sandbox: the emulator is started, used by defer(), and stopped."""

from __future__ import annotations

import os

import grpc
import pytest
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksGrpcTransport,
)

from cloudtask import conf
from cloudtask.deferred import defer
from cloudtask.sandbox import HOST_VARIABLE, start_emulators, stop_emulators
from tests.compat import things

PARENT = "projects/example/locations/local/queues/default"


@pytest.fixture
def emulators(monkeypatch, tmp_path):
    for name in (HOST_VARIABLE, "RUN_MAIN", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    start_emulators(
        persist_data=False,
        project_id="example",
        emulators=["tasks"],
        tasks_port=0,
        task_target_port=9,  # nobody listens there
        autodetect_task_port=False,
    )
    yield os.environ[HOST_VARIABLE]
    stop_emulators()


def names_at(address):
    with grpc.insecure_channel(address) as channel:
        client = CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        return [
            task.name.rpartition("/")[2] for task in client.list_tasks(parent=PARENT)
        ]


def test_defer_uses_the_emulator_while_it_runs(emulators, settings):
    settings.CLOUD_TASKS_PROJECT_ID = "example"
    settings.CLOUD_TASKS_LOCATION = "local"
    settings.CLOUDTASK = {"TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT}}
    defer(things.note, _name="here", _countdown=3600)
    assert names_at(emulators) == ["here"]


def test_stopping_puts_the_environment_back(emulators):
    stop_emulators()
    assert HOST_VARIABLE not in os.environ


def test_starting_twice_starts_one(emulators):
    start_emulators(persist_data=False, emulators=["tasks"])
    assert os.environ[HOST_VARIABLE] == emulators


def test_the_reloaded_process_of_runserver_starts_none(monkeypatch):
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    monkeypatch.setenv("RUN_MAIN", "true")
    start_emulators(persist_data=True, emulators=["tasks"])
    assert HOST_VARIABLE not in os.environ


def test_the_emulator_of_storage_is_google_s_to_start():
    with pytest.raises(ValueError, match="tasks"):
        start_emulators(persist_data=True, emulators=["storage", "tasks"])
