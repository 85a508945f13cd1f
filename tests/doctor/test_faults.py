"""The doctor finds each fault that is seeded here, and names its cure."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings
from google.cloud.tasks_v2 import Queue

from cloudtask import clock, conf, queues, stores
from cloudtask.doctor import delivery
from cloudtask.emulator import Emulator
from cloudtask.message import Enqueued
from cloudtask.models import FailedTask, IterationRun, OutboxMessage
from cloudtask.queues import applying
from cloudtask.stores import note_upkeep
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.transports.cloud.client import clients
from tests.dashboard import seeding
from tests.doctor import service
from tests.support import clock as movable
from tests.support.waiting import wait_until
from tests.testapp.tasks import note

pytestmark = pytest.mark.django_db(databases="__all__")

MAIL = "projects/p/locations/l/queues/mail"


def examined(*arguments: str) -> list[dict[str, Any]]:
    """What the command prints as JSON, whatever its exit code."""
    out = io.StringIO()
    with suppress(SystemExit):
        call_command("cloudtask_doctor", *arguments, "--json", stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def faults(probe: str, *arguments: str) -> list[tuple[str, str]]:
    """What a probe found to be wrong, and the cures."""
    return [
        (one["what"], one["cure"])
        for one in examined("--only", probe, *arguments)
        if one["grade"] in ("warning", "failed")
    ]


def the_fault(probe: str, *arguments: str) -> tuple[str, str]:
    [fault] = faults(probe, *arguments)
    return fault


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    def configured(**changes: Any) -> None:
        settings.CLOUDTASK = {
            "PROJECT": "p",
            "LOCATION": "l",
            "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
            "QUEUES": {"mail": {}},
            **changes,
        }
        queues.forget_cached()

    return configured


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, configure: Any) -> Callable[[str], None]:
    """Lets the project use the Cloud Tasks at an address."""

    def used(address: str) -> None:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", address)
        monkeypatch.setattr("cloudtask.doctor.service.used", lambda: ["mail"])
        monkeypatch.setattr(delivery, "used", lambda: ["mail"])
        configure()

    return used


@pytest.fixture
def emulator(at: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(port=0, target="http://127.0.0.1:9", queues=(MAIL,)) as running:
        at(running.address)
        monkeypatch.setattr(applying, "PAUSE", 0.0)
        call_command("cloudtask_queues", "apply", "--yes", stdout=io.StringIO())
        yield running


# The project


def test_a_wrong_setting(settings: Any) -> None:
    settings.CLOUDTASK = {"PROJEKT": "p"}

    found = {one["probe"]: one for one in examined()}

    assert "'PROJEKT'" in found["settings"]["what"]
    assert found["settings"]["grade"] == "failed"
    assert {f["grade"] for p, f in found.items() if p != "settings"} == {"skipped"}


def test_a_missing_migration() -> None:
    recorder = MigrationRecorder(connections["default"])
    recorder.record_unapplied("cloudtask", "0001_initial")

    what, cure = the_fault("tables")

    assert "DATABASES['default'] lacks migrations of cloudtask: 0001_initial" in what
    assert "manage.py migrate cloudtask --database default" in cure


def test_a_clock_that_is_ahead() -> None:
    class Ahead(clock.Clock):
        def now(self) -> float:
            return super().now() + 7

    before = clock.use(Ahead())
    try:
        what, cure = faults("clock")[0]
    finally:
        clock.use(before)

    assert "is 7 s ahead of" in what or "is 6 s ahead of" in what
    assert "timedatectl" in cure


def test_a_key_that_is_gone() -> None:
    with override_settings(SECRET_KEY="a key that is gone by now"):
        note.defer("x")
        assert OutboxMessage.objects.count() == 1

    what, cure = the_fault("keys")

    assert "1 of the oldest messages in the outbox of 'default'" in what
    assert "SECRET_KEY_FALLBACKS" in cure


def test_a_task_that_this_version_does_not_have() -> None:
    store = stores.store()
    seeding.failed_call(store, "f1", task="shop.old.task", group="o" * 32)
    seeding.failed_call(store, "f2", task="shop.old.task", group="o" * 32)

    what, cure = the_fault("names")

    assert what.startswith("2 failed calls name shop.old.task")
    assert "cloudtask_failed discard --task shop.old.task" in cure


def test_a_task_in_a_queue_that_this_version_does_not_have(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudtask.doctor.project.used", lambda: ["mail"])
    queues.pause("mail")
    for path in ("shop.old.task", "tests.testapp.tasks.note", "cloudtask.walk"):
        url = f"http://127.0.0.1:9/_cloudtask/run/{path}"
        clients.get().create_task(parent=MAIL, task={"http_request": {"url": url}})

    what, cure = the_fault("names")

    assert what.startswith("The queue 'mail' has calls of shop.old.task")
    assert "kept as failed tasks in the end" in cure


def test_a_queue_that_can_not_be_read_is_no_unknown_name(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudtask.doctor.project.used", lambda: ["gone"])

    grades = [one["grade"] for one in examined("--only", "names")]

    assert grades == ["skipped", "ok"]


def test_an_iteration_of_a_task_that_this_version_does_not_have() -> None:
    seeding.run_of(stores.store(), 1)
    IterationRun.objects.update(task=note.path)
    assert faults("names") == []
    IterationRun.objects.update(task="shop.old.walk")

    what, cure = the_fault("names")

    assert "An iteration that has not ended calls shop.old.walk" in what
    assert "cloudtask_iterations list --task shop.old.walk" in cure


def test_names_that_are_all_there_are_told_with_the_places() -> None:
    [found] = examined("--only", "names")

    assert found["grade"] == "ok"
    for place in ("failed tasks", "outbox", "queue", "iterations"):
        assert place in found["what"]


def test_static_files_that_are_not_there(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls"
    settings.STATICFILES_FINDERS = []

    what, cure = the_fault("dashboard")

    assert "dashboard.css" in what
    assert "collectstatic" in cure


def test_rights_that_migrate_has_not_made(settings: Any) -> None:
    from django.contrib.auth.models import Permission

    settings.ROOT_URLCONF = "tests.dashboard.urls"
    Permission.objects.filter(content_type__app_label="cloudtask").delete()

    what, cure = the_fault("dashboard")

    assert "rights of the dashboard" in what
    assert "manage.py migrate" in cure


# The store, and what runs regularly


def test_a_datastore_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with service.denying("Missing or insufficient permissions.") as address:
        monkeypatch.setenv("DATASTORE_EMULATOR_HOST", address)
        made = DatastoreStore({"PROJECT": "p"}, sleep=lambda seconds: None)
        monkeypatch.setattr(stores, "_made", lambda settings: made)

        what, cure = the_fault("store")

    assert "insufficient permissions" in what
    assert "roles/datastore.user" in cure


def due_for(minutes: int) -> None:
    seeding.outbox_row("o1", parked=False, error="")
    movable.move(minutes * 60 + 1)


def test_a_relay_that_does_not_run() -> None:
    due_for(minutes=9)

    assert the_fault("relay")[0] == "A message is due for 9 min: no relay runs."
    assert "cloudtask_relay --loop" in the_fault("relay")[1]


def test_a_relay_that_ran_long_ago() -> None:
    note_upkeep("relay", "1 sent")
    assert faults("relay") == []

    movable.move(9 * 60 + 1)

    assert the_fault("relay")[0] == "No relay has run for 9 min."


def test_parked_messages() -> None:
    note_upkeep("relay", "1 sent")
    seeding.outbox_row("o1", error="QueueNotFound: no queue mail")

    what, cure = the_fault("relay")

    assert "parked in 'default': 1, since" in what
    assert "QueueNotFound: no queue mail" in what
    assert "cloudtask_outbox release --all --database default" in cure


def test_lost_steps_of_an_iteration() -> None:
    seeding.run_of(stores.store(), 1)
    assert faults("sweep") == []
    movable.move(conf.settings().sweep_after.total_seconds() + 100)

    what, cure = the_fault("sweep")

    assert "have lost 4 steps" in what
    assert "cloudtask_relay" in cure


def test_old_records_that_are_not_pruned() -> None:
    note_upkeep("prune", "nothing")
    seeding.failed_call(stores.store(), "f1")
    assert faults("prune") == []
    old = clock.database_now() - timedelta(days=31)
    FailedTask.objects.update(failed_at=old)

    what, cure = the_fault("prune")

    assert "older than CLOUDTASK['KEEP_FAILED'], 30 d" in what
    assert "cloudtask_prune" in cure


def test_a_prune_that_has_not_run_for_days() -> None:
    note_upkeep("prune", "nothing")
    movable.move(3 * 86_400 + 1)

    assert the_fault("prune")[0] == "cloudtask_prune has not run for 3 d."


def test_records_that_can_not_be_read() -> None:
    seeding.run_of(stores.store(), 1)
    assert faults("records") == []
    IterationRun.objects.update(state="nonsense")

    what, cure = the_fault("records")

    assert "can't be read: 1. The stored value iteration / " in what
    assert " / state can't be read" in what
    assert "discard what pages and lists show" in cure


# Cloud Tasks


def test_credentials_that_are_missing(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUD_TASKS_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    configure()

    what, cure = the_fault("credentials")

    assert "No Google credentials were found" in what
    assert "gcloud auth application-default login" in cure


def test_a_queue_that_is_missing(emulator: Emulator) -> None:
    assert faults("queues") == []
    queues.delete("mail")

    what, cure = the_fault("queues")

    assert what == "The queue 'mail' is missing."
    assert "manage.py cloudtask_queues apply" in cure


def test_a_queue_that_is_paused(emulator: Emulator) -> None:
    queues.pause("mail")

    what, cure = the_fault("queues")

    assert "'mail' is paused" in what
    assert "manage.py cloudtask_queues resume mail" in cure


def test_a_queue_that_is_disabled(at: Any) -> None:
    reply = service.queues_of(Queue.State.DISABLED)
    with service.denying("no", ListQueues=reply) as address:
        at(address)
        what, cure = the_fault("queues")

    assert "'mail' is disabled: a queue.yaml omits it" in what
    assert "resume mail" in cure


def test_a_queue_that_gives_up(at: Any) -> None:
    with Emulator(port=0, target="http://127.0.0.1:9", queues=(MAIL,)) as running:
        at(running.address)
        what, cure = the_fault("queues")

    assert "'mail' gives up after 100 attempts, in silence" in what
    assert "Set it to -1" in cure


def test_a_queue_that_is_unlike_its_declaration(
    emulator: Emulator, configure: Any
) -> None:
    configure(QUEUES={"mail": {"concurrency": 3}})

    what, cure = the_fault("queues")

    assert "'mail' is not as" in what
    assert "cloudtask_queues plan" in cure


def test_an_account_that_may_not_list_queues(at: Any) -> None:
    with service.denying("denied by IAM") as address:
        at(address)
        what, cure = the_fault("queues")

    assert "cloudtasks.queues.list" in what
    assert "roles/cloudtasks.viewer" in cure


def test_an_account_that_may_not_create_tasks(at: Any) -> None:
    reply = service.no_permissions
    with service.denying("no", TestIamPermissions=reply) as address:
        at(address)
        what, cure = the_fault("permissions")

    assert "may not create tasks in 'mail'" in what
    assert "roles/cloudtasks.enqueuer" in cure


# The handler


@pytest.mark.parametrize(
    ("status", "headers", "cure"),
    [
        (301, {"Location": "https://app.example/"}, "SECURE_REDIRECT_EXEMPT"),
        (302, {"Location": "/accounts/login/"}, "asks for a login"),
        (400, {}, "ALLOWED_HOSTS"),
        (403, {}, "roles/run.invoker"),
        (404, {}, "include('cloudtask.urls')"),
        (200, {}, "not the handler of cloudtask"),
    ],
)
def test_a_handler_that_something_else_answers_for(
    status: int, headers: dict[str, str], cure: str
) -> None:
    with service.answering(status, b"<html>", **headers) as url:
        what, told = the_fault("handler", "--url", url)

    assert f"was answered {status}" in what
    assert cure in told


def test_a_handler_that_is_not_there() -> None:
    with service.answering(200) as url:
        pass

    what, cure = the_fault("handler", "--url", url)

    assert "ConnectionRefusedError" in what
    assert "Start the service" in cure


def test_a_handler_that_asks_for_no_token() -> None:
    with service.answering(400, b"not an envelope") as url:
        what, cure = the_fault("handler", "--url", url)

    assert "asks for no token" in what
    assert "VERIFY" in cure


def test_the_handler_itself_is_right() -> None:
    with service.answering(403, b"untrusted") as url:
        assert faults("handler", "--url", url) == []


# There and back. What works is shown by `make demo` (tests/acceptance/test_demo.py).


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACK", 0.3)


@pytest.mark.usefixtures("hasty")
def test_a_task_that_the_queue_does_not_send(emulator: Emulator) -> None:
    queues.pause("mail")

    what, cure = the_fault("send", "--send")

    assert "was created, and has not run: the queue has not sent it" in what
    assert "resume mail" in cure


def test_a_task_that_the_service_refuses(at: Any, configure: Any) -> None:
    with service.answering(403, b"untrusted") as url:
        target = {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": url,
            "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
        }
        with Emulator(port=0, target=url, queues=(MAIL,)) as running:
            at(running.address)
            configure(TARGET=target)
            sent = delivery.sent("mail").receipt
            wait_until(lambda: is_answered(sent), "The service has answered")
            finding = delivery.missing(sent)

    assert "403" in finding.what
    assert "AUDIENCE" in finding.cure


def is_answered(sent: Enqueued) -> bool:
    seen = queues.look_at(sent.queue, sent.name)
    return seen is not None and bool(seen.answer)


def test_an_account_that_may_not_act_as_that_of_the_tasks(at: Any) -> None:
    why = "lacks permission iam.serviceAccounts.actAs on the service account"
    with service.denying(why) as address:
        at(address)
        what, cure = the_fault("send", "--send")

    assert "actAs" in what
    assert "roles/iam.serviceAccountUser" in cure
