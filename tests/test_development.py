"""Beside an emulator, tasks are delivered to this machine, whatever TARGET says."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.test import RequestFactory

from cloudtask import development
from cloudtask.exceptions import EnqueueError, UntrustedRequest
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.targets import HttpTarget

URL = "https://app.example"
OPTIONS = {"URL": URL, "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com"}
RUNSERVER = "manage.py runserver"


@pytest.fixture(autouse=True)
def _emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (development.HTTP_VARIABLE, development.TARGET_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(development.HOST_VARIABLE, "127.0.0.1:8123")
    monkeypatch.setattr(sys, "argv", ["manage.py", "shell"])


def message(**options: Any) -> Message:
    return Message(
        id="1",
        task="app.tasks.f",
        queue="default",
        name="1",
        payload=b"[[],{}]",
        created=0.0,
        options=Options(**options),
    )


def called(url: str = URL, **options: Any) -> str:
    dispatch = HttpTarget({**OPTIONS, "URL": url}).request_for(message(**options))
    return dispatch.url.removesuffix("/_cloudtask/run/app.tasks.f")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (RUNSERVER, "http://127.0.0.1:8000"),
        (f"{RUNSERVER} 8080", "http://127.0.0.1:8080"),
        (f"{RUNSERVER} 0.0.0.0:8080 --noreload", "http://127.0.0.1:8080"),
        (f"{RUNSERVER} 0:8080", "http://127.0.0.1:8080"),
        (f"{RUNSERVER} [::1]:8080", "http://[::1]:8080"),
        (f"{RUNSERVER} -6", "http://[::1]:8000"),
        (f"{RUNSERVER} 8080 --ipv6", "http://[::1]:8080"),
        (f"{RUNSERVER} -v 2", "http://127.0.0.1:8000"),
        (f"{RUNSERVER} --verbosity 2 8080", "http://127.0.0.1:8080"),
        (f"{RUNSERVER} --verbosity=2 8080", "http://127.0.0.1:8080"),
        (f"{RUNSERVER} -v2 localhost:8080 -v 3", "http://localhost:8080"),
        ("manage.py runserver_plus --reloader-interval 5", "http://127.0.0.1:8000"),
        ("manage.py testserver --addrport 7000 cats", "http://127.0.0.1:7000"),
        (f"{RUNSERVER} 192.168.1.5:8080", "http://192.168.1.5:8080"),
        ("manage.py shell", "http://127.0.0.1:8000"),
        ("gunicorn wsgi", "http://127.0.0.1:8000"),
    ],
)
def test_a_production_url_gives_way_to_this_machine(
    monkeypatch: pytest.MonkeyPatch, command: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", command.split())
    assert called() == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://web:8000", "http://web:8000"),
        ("http://host.docker.internal:9000", "http://host.docker.internal:9000"),
        ("http://10.0.0.7:9000", "http://10.0.0.7:9000"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:8080"),
        ("http://localhost:9000", "http://127.0.0.1:8080"),
        ("http://app.example", "http://127.0.0.1:8080"),
        ("http://93.184.215.14", "http://127.0.0.1:8080"),
    ],
)
def test_a_url_of_the_local_network_stays(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", [*RUNSERVER.split(), "8080"])
    assert called(url) == expected


def test_without_runserver_a_url_of_this_machine_stays() -> None:
    assert called("http://127.0.0.1:9000") == "http://127.0.0.1:9000"


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(development.TARGET_VARIABLE, "http://127.0.0.1:7000/")
    assert called("http://web:8000") == "http://127.0.0.1:7000"


def test_without_an_emulator_the_url_is_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(development.HOST_VARIABLE)
    assert called() == URL


def test_an_address_of_ours_leads_here_too() -> None:
    assert called(url=URL) == "http://127.0.0.1:8000"
    dispatch = HttpTarget(OPTIONS).request_for(message(url=f"{URL}/hook/?a=1"))
    assert dispatch.url == "http://127.0.0.1:8000/hook/?a=1"


def test_an_address_of_another_host_is_refused(settings: Any) -> None:
    settings.CLOUDTASK = {"ALLOWED_URLS": ["other.example", "web"]}
    target = HttpTarget(OPTIONS)
    with pytest.raises(EnqueueError, match=r"other\.example, which is not local"):
        target.request_for(message(url="https://other.example/hook/"))
    near = message(url="https://web/hook/")
    assert target.request_for(near).url == "https://web/hook/"


@pytest.mark.parametrize(
    ("variable", "issuer"),
    [(None, "http://127.0.0.1:8124"), ("http://127.0.0.1:9/", "http://127.0.0.1:9")],
)
def test_a_refusal_names_the_issuer_and_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, issuer: str
) -> None:
    if variable:
        monkeypatch.setenv(development.HTTP_VARIABLE, variable)
    request = RequestFactory().post("/")
    with pytest.raises(UntrustedRequest) as caught:
        HttpTarget(OPTIONS).verify(request)
    assert f"{issuer} must issue the tokens: set CLOUDTASK_EMULATOR_URL" in str(
        caught.value
    )
