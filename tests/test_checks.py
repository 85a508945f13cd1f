"""System checks: each finding, and that a good project has none."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db import ProgrammingError, connections
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpResponse, HttpResponseRedirect
from django.test import override_settings

from cloudtask import checks, conf, registry
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.schedules.declared import _declared, declare
from cloudtask.transports.memory import MemoryTransport
from tests.stores.datastore_fixtures import BACKEND
from tests.support import recording
from tests.support.entities import known

# Django's own checks may ask the databases what they can do.
pytestmark = pytest.mark.django_db(databases=["default", "other"])

ENVIRON = ("GAE_ENV", "CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST")
TARGET = {
    "BACKEND": "cloudtask.targets.HttpTarget",
    "URL": "https://app.example",
    "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
}
GOOD = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TARGET": TARGET,
    "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
}
APP_ENGINE = {**GOOD, "TARGET": {"BACKEND": conf.APP_ENGINE_TARGET}}

MIGRATIONS = Path(checks.__file__).parent / "migrations"
LATEST = max(path.stem for path in MIGRATIONS.glob("0*.py"))


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRON:
        monkeypatch.delenv(name, raising=False)
    # Test modules that lie outside of the installed apps may have tasks of their own.
    ours = {p: d for p, d in registry._known.items() if "testapp" in p}
    monkeypatch.setattr(registry, "_known", ours)


def found(deploy: bool = True, **changes: Any) -> dict[str, CheckMessage]:
    with override_settings(**changes):
        messages = run_checks(include_deployment_checks=deploy)
    # From 100 on they belong to the backend of django.tasks.
    prefixes = ("cloudtask.E0", "cloudtask.W0")
    ours = [m for m in messages if str(m.id).startswith(prefixes)]
    assert len({m.id for m in ours}) == len(ours)
    return {str(m.id): m for m in ours}


def test_a_good_project_has_no_findings() -> None:
    assert found(CLOUDTASK=GOOD) == {}


def test_a_good_project_on_app_engine_has_no_findings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GAE_ENV", "standard")
    assert found(CLOUDTASK=APP_ENGINE) == {}


def test_the_defaults_are_fine_in_development() -> None:
    assert found(deploy=False, CLOUDTASK={}) == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"LOCATON": "x"},
        {"QUEUES": {"a": {"rat": "1/s"}}},
        {"TARGET": {**TARGET, "SERVICE_ACCOUNT": ""}},
        {"TARGET": {"BACKEND": "nowhere.Target"}},
        {"TRANSPORT": {"BACKEND": "nowhere.Transport"}},
        {"TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT, "X": 1}},
        {"STORE": {"BACKEND": "nowhere.Store"}},
        {"STORE": {"BACKEND": conf.DATABASE_STORE, "ALIS": "other"}},
    ],
)
def test_e001_settings_that_cannot_be_used(settings: dict[str, Any]) -> None:
    messages = found(deploy=False, CLOUDTASK=settings)
    assert list(messages) == ["cloudtask.E001"]
    assert "CLOUDTASK" in messages["cloudtask.E001"].msg


def test_e001_tells_every_wrong_key_at_once() -> None:
    wrong = {
        "LOCATON": "x",
        "MAX_AGE": "long",
        "QUEUES": {"a": {"rat": "1/s"}, "b b": {}, "c": {"concurrency": 0}},
    }
    with override_settings(CLOUDTASK=wrong):
        texts = [message.msg for message in checks.settings_are_right(None)]
    assert len(texts) == 5
    for word in ("LOCATON", "MAX_AGE", "'rat'", "'b b'", "'concurrency'"):
        assert sum(word in text for text in texts) == 1


def test_e001_tells_what_is_wrong_inside_every_setting_at_once() -> None:
    wrong = {
        "LOCATON": "x",
        "QUEUES": {"a": {"rat": "1/s", "concurrency": 0, "backoff": "1s"}},
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": "app.example",
            "AUDIENCE": 7,
            "SERVICE": "web",
        },
        "STORE": {"BACKEND": conf.DATABASE_STORE, "ALIS": "other"},
        "TRANSPORT": {"BACKEND": "nowhere.Transport"},
        "CARRIERS": ["nowhere.One", "nowhere.Two"],
    }
    words = (
        *("LOCATON", "'rat'", "['concurrency']", "['backoff']", "['URL']"),
        *("['AUDIENCE']", "'SERVICE';", "['SERVICE_ACCOUNT']", "'ALIS'"),
        *("nowhere.Transport", "nowhere.One", "nowhere.Two"),
    )
    with override_settings(CLOUDTASK=wrong):
        texts = [message.msg for message in checks.settings_are_right(None)]
    assert [sum(word in text for text in texts) for word in words] == [1] * len(words)
    assert len(texts) == len(words)


def test_e001_tells_what_is_wrong_in_a_store_in_datastore() -> None:
    backend = "cloudtask.stores.datastore.DatastoreStore"
    wrong = {"BACKEND": backend, "PROJECT": 7, "DATABASE": "A", "NAMESPACES": "x"}
    with override_settings(CLOUDTASK={"STORE": wrong}):
        texts = [message.msg for message in checks.settings_are_right(None)]
    assert len(texts) == 3


def test_e001_does_not_hide_behind_other_findings_of_a_deployment() -> None:
    assert list(found(CLOUDTASK={"LOCATON": "x"})) == ["cloudtask.E001"]


@pytest.mark.parametrize("urlconf", ["tests.testapp.no_urls", ""])
def test_w001_a_handler_without_a_url(urlconf: str) -> None:
    messages = found(CLOUDTASK=GOOD, ROOT_URLCONF=urlconf)
    assert list(messages) == ["cloudtask.W001"]
    assert "include('cloudtask.urls')" in messages["cloudtask.W001"].msg
    prefixed = {**GOOD, "PREFIX": "/tasks/"}
    assert not found(CLOUDTASK=prefixed, ROOT_URLCONF="tests.testapp.no_urls")


def test_w002_a_task_that_workers_do_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Definition("far.away.job", lambda: None, Options())  # type: ignore[attr-defined]
    monkeypatch.setitem(registry._known, "far.away.job", outside)
    messages = found(CLOUDTASK=GOOD)
    assert list(messages) == ["cloudtask.W002"]
    assert "far.away.job" in messages["cloudtask.W002"].msg
    assert "TRUSTED_MODULES" in str(messages["cloudtask.W002"].hint)
    assert not found(CLOUDTASK={**GOOD, "TRUSTED_MODULES": ["far"]})


def test_w002_leaves_tasks_alone_that_django_knew_when_it_was_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outside = Definition("far.away.job", lambda: None, Options())  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "_of_setup", set())
    with monkeypatch.context() as setting_up:
        setting_up.setattr(apps, "ready", False)
        registry.register(outside)
    assert not found(CLOUDTASK=GOOD)


def test_w004_bodies_that_the_handler_would_refuse() -> None:
    messages = found(deploy=False, CLOUDTASK={**GOOD, "MAX_BODY_SIZE": 1000})
    assert list(messages) == ["cloudtask.W004"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({**TARGET, "VERIFY": False}, "cloudtask.E002"),
        ({**TARGET, "ISSUER": "http://127.0.0.1:8123"}, "cloudtask.E003"),
        ({**TARGET, "URL": "http://app.example"}, "cloudtask.W003"),
        ({"BACKEND": conf.APP_ENGINE_TARGET, "ON_APP_ENGINE": True}, "cloudtask.E006"),
        ({"BACKEND": conf.APP_ENGINE_TARGET}, "cloudtask.W005"),
    ],
)
def test_a_target_of_development_is_found_before_a_deployment(
    target: dict[str, Any], expected: str
) -> None:
    assert list(found(CLOUDTASK={**GOOD, "TARGET": target})) == [expected]
    assert not found(deploy=False, CLOUDTASK={**GOOD, "TARGET": target})


def test_e009_a_task_whose_queue_is_not_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Definition("tests.testapp.job", lambda: None, Options(queue="mial"))
    # Other tests register tasks with queues of their own.
    monkeypatch.setattr(registry, "_known", {job.path: job})
    messages = found(CLOUDTASK={**GOOD, "QUEUES": {"mail": {}}})
    assert list(messages) == ["cloudtask.E009"]
    assert "tests.testapp.job" in messages["cloudtask.E009"].msg
    assert "did you mean 'mail'?" in messages["cloudtask.E009"].msg
    assert not found(CLOUDTASK={**GOOD, "QUEUES": {"mial": {}}})
    assert not found(CLOUDTASK=GOOD)


def test_e013_a_timeout_that_the_target_does_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Definition("tests.testapp.job", lambda: None, Options(timeout=7200))
    monkeypatch.setattr(registry, "_known", {job.path: job})
    messages = found(CLOUDTASK=GOOD)
    assert list(messages) == ["cloudtask.E013"]
    told = "Task tests.testapp.job has a timeout of 7200 seconds"
    assert messages["cloudtask.E013"].msg.startswith(told)
    assert "between 15 and 1800" in messages["cloudtask.E013"].msg
    target = {"BACKEND": conf.APP_ENGINE_TARGET}
    assert not found(deploy=False, CLOUDTASK={**GOOD, "TARGET": target})


@patch.dict(_declared, clear=True)
def test_e012_a_schedule_without_a_place() -> None:
    job = Definition("tests.testapp.job", lambda: None, Options(database="nothing"))
    declare(job, timedelta(hours=1))
    with known("nothing", {"ENGINE": "django.db.backends.dummy"}):
        message = found(CLOUDTASK=GOOD)["cloudtask.E012"]
        kept = {"BACKEND": BACKEND, "PROJECT": "p"}
        assert "cloudtask.E012" not in found(CLOUDTASK={**GOOD, "STORE": kept})

    assert "The schedule tests.testapp.job was refused" in message.msg
    assert "Keep the state in Datastore" in message.msg


def test_w006_a_url_with_a_path() -> None:
    target = {**TARGET, "URL": "https://app.example/shop/"}
    messages = found(CLOUDTASK={**GOOD, "TARGET": target})
    assert list(messages) == ["cloudtask.W006"]
    assert "https://app.example/shop/..." in messages["cloudtask.W006"].msg


@pytest.mark.parametrize("alias", ["default", "other"])
def test_w007_migrations_that_are_not_applied(alias: str) -> None:
    store = {"BACKEND": conf.DATABASE_STORE, "ALIAS": alias}
    recorder = MigrationRecorder(connections[alias])
    recorder.record_unapplied("cloudtask", LATEST)
    with override_settings(CLOUDTASK={"STORE": store}):
        (message,) = run_checks(databases=[alias], tags=["database"])
    assert message.id == "cloudtask.W007"
    assert LATEST in message.msg
    assert f"migrate cloudtask --database {alias}" in str(message.hint)


def test_w007_only_looks_at_databases_that_are_checked() -> None:
    recorder = MigrationRecorder(connections["default"])
    recorder.record_unapplied("cloudtask", LATEST)
    assert found(deploy=False, CLOUDTASK={}) == {}
    assert checks.migrations_are_applied(None, databases=["other"]) == []


@pytest.mark.parametrize("name", ["CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST"])
def test_e004_an_emulator(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "127.0.0.1:8123")
    messages = found(CLOUDTASK=GOOD)
    assert list(messages) == ["cloudtask.E004"]
    assert messages["cloudtask.E004"].msg.startswith(name)


def test_e011_a_failpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDTASK_FAILPOINT", "execute.received=kill")
    assert list(found(CLOUDTASK=GOOD)) == ["cloudtask.E011"]
    assert not found(deploy=False, CLOUDTASK=GOOD)


class Remembering(MemoryTransport):
    """A transport of a project that keeps tasks in memory too."""


def test_e005_a_transport_that_keeps_tasks_in_memory() -> None:
    memory = {**GOOD, "TRANSPORT": {"BACKEND": conf.MEMORY_TRANSPORT}}
    assert list(found(CLOUDTASK=memory)) == ["cloudtask.E005"]
    derived = f"{__name__}.{Remembering.__name__}"
    memory = {**GOOD, "TRANSPORT": {"BACKEND": derived}}
    assert list(found(CLOUDTASK=memory)) == ["cloudtask.E005"]
    recorded = {**GOOD, "TRANSPORT": {"BACKEND": recording.PATH}}
    assert not found(CLOUDTASK=recorded)


def test_e007_a_location_that_is_missing() -> None:
    nowhere = {key: value for key, value in GOOD.items() if key != "LOCATION"}
    assert list(found(CLOUDTASK=nowhere)) == ["cloudtask.E007"]
    assert not found(deploy=False, CLOUDTASK=nowhere)


@pytest.mark.parametrize(
    ("alias", "options"),
    [("default", {}), ("other", {"STORE": {"ALIAS": "other"}})],
)
def test_e008_a_database_that_does_not_commit(
    monkeypatch: pytest.MonkeyPatch, alias: str, options: dict[str, Any]
) -> None:
    monkeypatch.setitem(connections.settings[alias], "AUTOCOMMIT", False)
    if "STORE" in options:
        options = {"STORE": {"BACKEND": conf.DATABASE_STORE, **options["STORE"]}}

    messages = found(deploy=False, CLOUDTASK=options)

    assert list(messages) == ["cloudtask.E008"]
    assert f"DATABASES['{alias}']" in messages["cloudtask.E008"].msg


def test_a_database_that_is_not_used_may_leave_commits_to_its_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_known", {})
    monkeypatch.setitem(connections.settings["other"], "AUTOCOMMIT", False)
    assert found(deploy=False, CLOUDTASK={}) == {}


# A request through the middleware of the project.


def test_a_request_that_must_be_secure_is_not_answered_by_the_handler() -> None:
    plain = {**GOOD, "TARGET": {**TARGET, "URL": "http://app.example"}}
    middleware = ["django.middleware.security.SecurityMiddleware", *settings.MIDDLEWARE]
    message = found(
        CLOUDTASK=plain,
        MIDDLEWARE=middleware,
        SECURE_SSL_REDIRECT=True,
        ALLOWED_HOSTS=["*"],
    )["cloudtask.W008"]
    assert "301 with a redirect to https://app.example/_cloudtask/run/" in message.msg
    assert "SECURE_REDIRECT_EXEMPT" in str(message.hint)


def test_a_host_that_is_not_allowed_is_named() -> None:
    middleware = [*settings.MIDDLEWARE, "django.middleware.common.CommonMiddleware"]
    message = found(
        CLOUDTASK=GOOD, MIDDLEWARE=middleware, ALLOWED_HOSTS=["other.example"]
    )["cloudtask.W008"]
    assert "answered 400" in message.msg
    assert "ALLOWED_HOSTS" in str(message.hint)


def test_the_empty_list_of_hosts_of_a_new_project_is_right_in_its_tests() -> None:
    middleware = [*settings.MIDDLEWARE, "django.middleware.common.CommonMiddleware"]
    hosts = ["testserver"]  # what Django's tests add to an empty list
    messages = found(CLOUDTASK=GOOD, MIDDLEWARE=middleware, ALLOWED_HOSTS=hosts)
    assert "cloudtask.W008" not in messages


def lock(get_response: Any) -> Any:
    def middleware(request: Any) -> HttpResponse:
        return HttpResponseRedirect("/accounts/login/")

    return middleware


def close_down(get_response: Any) -> Any:
    def middleware(request: Any) -> HttpResponse:
        return HttpResponse("Back soon", status=503)

    return middleware


@pytest.mark.parametrize(("name", "hint"), [("lock", "login"), ("close_down", "maint")])
def test_middleware_that_answers_itself_is_found(name: str, hint: str) -> None:
    middleware = [*settings.MIDDLEWARE, f"{__name__}.{name}"]
    message = found(CLOUDTASK=GOOD, MIDDLEWARE=middleware)["cloudtask.W008"]
    assert hint in str(message.hint)


def count(get_response: Any) -> Any:
    def middleware(request: Any) -> HttpResponse:
        raise ProgrammingError('relation "visits" does not exist')

    return middleware


def stumble(get_response: Any) -> Any:
    def middleware(request: Any) -> HttpResponse:
        raise LookupError("no tenant of that name")

    return middleware


def test_a_middleware_whose_tables_are_missing_says_nothing(caplog) -> None:
    middleware = [*settings.MIDDLEWARE, f"{__name__}.count"]
    assert "cloudtask.W008" not in found(CLOUDTASK=GOOD, MIDDLEWARE=middleware)
    assert caplog.records == []


@pytest.mark.parametrize("propagated", [True, False])
def test_a_middleware_that_raises_is_found_without_a_traceback_in_the_log(
    caplog, propagated: bool
) -> None:
    middleware = [*settings.MIDDLEWARE, f"{__name__}.stumble"]
    message = found(
        CLOUDTASK=GOOD, MIDDLEWARE=middleware, DEBUG_PROPAGATE_EXCEPTIONS=propagated
    )["cloudtask.W008"]
    assert "answered 500 after LookupError" in message.msg
    assert caplog.records == []


def test_a_required_login_lets_the_handler_answer() -> None:
    login = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    middleware = [*settings.MIDDLEWARE, login]
    assert found(CLOUDTASK=GOOD, MIDDLEWARE=middleware) == {}


def test_gevent_that_grpc_does_not_know_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patched = SimpleNamespace(is_module_patched=lambda name: name == "socket")
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    assert "init_gevent" in str(found(CLOUDTASK=GOOD)["cloudtask.W009"].hint)
    monkeypatch.setitem(sys.modules, "grpc.experimental.gevent", SimpleNamespace())
    assert found(CLOUDTASK=GOOD) == {}
