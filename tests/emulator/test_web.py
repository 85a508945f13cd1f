"""The HTTP side: page, buttons, health, reset, and who may not press."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlencode, urlsplit

import pytest

from cloudtask.emulator import Emulator
from tests.emulator.conftest import QUEUE


def ask(
    emulator: Emulator,
    path: str,
    form: dict[str, str] | None = None,
    **headers: str,
) -> tuple[int, str]:
    """(status, text) of a GET, or of a POST when there is a form."""
    parts = urlsplit(emulator.http_address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        if form is None:
            connection.request("GET", path, headers=named)
        else:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", path, urlencode(form), {**kind, **named})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_the_page_shows_queues_tasks_and_failures(emulator, client, sink) -> None:
    sink.answer("/bad", 500)
    client.create_task(
        parent=QUEUE,
        task={
            "http_request": {"url": sink.url + "/bad"},
            "retry_config": {"max_attempts": 1},
        },
    )
    emulator.wait_idle()
    client.pause_queue(name=QUEUE)
    task = {"http_request": {"url": "http://h/<script>"}}
    name = client.create_task(parent=QUEUE, task=task).name

    status, text = ask(emulator, "/")

    assert status == 200
    assert QUEUE in text
    assert "paused" in text
    assert name.rpartition("/")[2] in text
    assert "-&gt; 500 in" in text
    assert "http://h/&lt;script&gt;" in text
    assert "<script" not in text


def test_the_page_of_an_idle_emulator_shows(start) -> None:
    status, text = ask(start(queues=()), "/")

    assert status == 200
    assert "No queues" in text


def test_the_page_tells_that_a_queue_is_on_hold(emulator, client, sink) -> None:
    sink.answer_headers = {"Retry-After": "600"}
    client.create_task(
        parent=QUEUE, task={"http_request": {"url": sink.answer("/busy", 429)}}
    )
    sink.wait_for(1)
    while not emulator.dispatches():
        continue

    assert "on hold" in ask(emulator, "/")[1]


def test_the_buttons_do_what_they_say(emulator, client, sink) -> None:
    def press(path: str, name: str) -> None:
        assert ask(emulator, path, {"name": name})[0] == 200

    press("/queues/pause", QUEUE)
    assert emulator.queues()[0].paused
    task = {"http_request": {"url": sink.url}}
    name = client.create_task(parent=QUEUE, task=task).name
    press("/tasks/run", name)
    sink.wait_for(1)
    client.create_task(parent=QUEUE, task=task)
    press("/queues/purge", QUEUE)
    assert emulator.tasks() == []
    press("/queues/resume", QUEUE)
    assert not emulator.queues()[0].paused


def test_a_browser_is_sent_back_to_the_page(emulator) -> None:
    form = {"name": QUEUE}

    assert ask(emulator, "/queues/pause", form, Accept="text/html")[0] == 303


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [
        ("/queues/pause", "projects/p/locations/l/queues/none", 404),
        ("/queues/pause", "nonsense", 400),
        ("/queues/burn", QUEUE, 404),
        ("/tasks/run", f"{QUEUE}/tasks/none", 404),
    ],
)
def test_a_wrong_name_is_told(emulator, path, name, status) -> None:
    assert ask(emulator, path, {"name": name})[0] == status


def test_a_page_of_another_site_can_not_press_the_buttons(emulator) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        assert ask(emulator, "/reset", {}, **headers)[0] == 403
        assert ask(emulator, "/queues/pause", {"name": QUEUE}, **headers)[0] == 403

    assert not emulator.queues()[0].paused
    own = emulator.http_address
    same = {"Origin": own, "Sec_Fetch_Site": "same-origin"}
    assert ask(emulator, "/queues/pause", {"name": QUEUE}, **same)[0] == 200


def test_a_name_pointed_at_this_machine_shows_nothing(emulator) -> None:
    assert ask(emulator, "/", Host="rebound.evil.example")[0] == 403
    assert ask(emulator, "/", Host="localhost:8124")[0] == 200


def test_health(emulator) -> None:
    status, text = ask(emulator, "/healthz")

    assert status == 200
    assert json.loads(text) == {
        "status": "ok",
        "grpc": emulator.address,
        "queues": 1,
        "tasks": 0,
    }


def test_reset_by_post_only(emulator, client) -> None:
    client.pause_queue(name=QUEUE)

    assert ask(emulator, "/reset")[0] == 405
    assert emulator.queues()[0].paused
    assert ask(emulator, "/reset", {})[0] == 200
    assert not emulator.queues()[0].paused


def test_discovery_leads_to_the_keys(emulator) -> None:
    document = json.loads(ask(emulator, "/.well-known/openid-configuration")[1])
    keys = json.loads(ask(emulator, urlsplit(document["jwks_uri"]).path)[1])["keys"]
    pems = json.loads(ask(emulator, "/oauth2/v1/certs")[1])

    assert document["issuer"] == emulator.http_address
    assert [key["kid"] for key in keys] == list(pems)
    assert keys[0]["alg"] == "RS256"
    assert "BEGIN PUBLIC KEY" in pems[keys[0]["kid"]]
