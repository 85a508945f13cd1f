"""The HTTP side: page, buttons, health, reset, and who may not press."""

from __future__ import annotations

import json
import socket
from urllib.parse import quote, urlencode, urlsplit

import pytest

from cloudtask.emulator import Emulator
from tests.emulator.asking import ask
from tests.emulator.conftest import QUEUE
from tests.support.waiting import wait_until


def get(emulator: Emulator, path: str, **headers: str) -> tuple[int, str]:
    answer = ask(emulator, "GET", path, **headers)
    return answer.status, answer.text


def post(
    emulator: Emulator, path: str, form: dict[str, str], **headers: str
) -> tuple[int, str]:
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    answer = ask(emulator, "POST", path, urlencode(form), **kind, **headers)
    return answer.status, answer.text


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

    status, text = get(emulator, "/")

    assert status == 200
    assert QUEUE in text
    assert "paused" in text
    assert name.rpartition("/")[2] in text
    assert "-&gt; 500 in" in text
    assert "http://h/&lt;script&gt;" in text
    assert "<script" not in text


def test_the_page_of_an_idle_emulator_shows(start) -> None:
    status, text = get(start(queues=()), "/")

    assert status == 200
    assert "No queues" in text


def test_the_page_tells_that_a_queue_is_on_hold(emulator, client, sink) -> None:
    sink.answer_headers = {"Retry-After": "600"}
    client.create_task(
        parent=QUEUE, task={"http_request": {"url": sink.answer("/busy", 429)}}
    )
    sink.wait_for(1)
    wait_until(emulator.dispatches, "The attempt is over")

    assert "on hold" in get(emulator, "/")[1]


def test_the_buttons_do_what_they_say(emulator, client, sink) -> None:
    def press(path: str, name: str) -> None:
        assert post(emulator, path, {"name": name})[0] == 200

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

    assert post(emulator, "/queues/pause", form, Accept="text/html")[0] == 303


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
    assert post(emulator, path, {"name": name})[0] == status


def test_a_page_of_another_site_can_not_press_the_buttons(emulator) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        assert post(emulator, "/reset", {}, **headers)[0] == 403
        assert post(emulator, "/queues/pause", {"name": QUEUE}, **headers)[0] == 403

    assert not emulator.queues()[0].paused
    own = emulator.http_address
    same = {"Origin": own, "Sec_Fetch_Site": "same-origin"}
    assert post(emulator, "/queues/pause", {"name": QUEUE}, **same)[0] == 200


def test_a_name_pointed_at_this_machine_shows_nothing(emulator) -> None:
    assert get(emulator, "/", Host="rebound.evil.example")[0] == 403
    assert get(emulator, "/", Host="localhost:8124")[0] == 200


@pytest.mark.parametrize(
    "host",
    ["", "a b", "[::1", "[", "]", "@", "a@b", "localhost:x", "\xff", "//", "a/b"],
)
def test_a_host_that_is_none_is_answered_400(emulator, host: str) -> None:
    for path in ("/", "/healthz", f"/v2/{QUEUE}"):
        assert ask(emulator, "GET", path, Host=host).status == 400


def test_a_request_without_a_host_is_answered_400(emulator) -> None:
    parts = urlsplit(emulator.http_address)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 400 " in connection.makefile("rb").readline()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"abcde"),
        ("application/x-www-form-urlencoded; charset=utf-99", b"name=x"),
        ("application/x-www-form-urlencoded", b"\xff\xfe=\xff"),
        ("application/json", b"{}"),
    ],
)
def test_a_form_that_can_not_be_read_is_answered_400(emulator, kind, body) -> None:
    for path in ("/queues/pause", "/tasks/run", "/tasks/delete"):
        answer = ask(emulator, "POST", path, body, Content_Type=kind)
        assert answer.status == 400


def test_a_search_finds_tasks_by_name_and_by_target(emulator, client) -> None:
    client.pause_queue(name=QUEUE)
    for number in range(30):
        task = {
            "name": f"{QUEUE}/tasks/order-{number}",
            "http_request": {"url": f"http://h/{'mail' if number == 7 else 'print'}"},
        }
        client.create_task(parent=QUEUE, task=task)

    assert "order-29" not in get(emulator, "/")[1]
    assert "order-29" in get(emulator, "/?q=r-29")[1]
    found = get(emulator, "/?q=h/mail")[1]
    assert "order-7<" in found
    assert "order-8<" not in found
    mean = quote('"><script>')
    assert "<script" not in get(emulator, f"/?q={mean}")[1]


def test_one_task_is_deleted(emulator, client) -> None:
    client.pause_queue(name=QUEUE)
    task = {"http_request": {"url": "http://h/"}}
    gone, kept = (client.create_task(parent=QUEUE, task=task).name for _ in range(2))

    assert post(emulator, "/tasks/delete", {"name": gone})[0] == 200

    assert [each.name for each in emulator.tasks()] == [kept]
    assert post(emulator, "/tasks/delete", {"name": gone})[0] == 404


def test_the_next_attempts_are_shown(start, connect, sink) -> None:
    queues = {"default": {"backoff": "100s..1h", "max_attempts": 3}}
    emulator = start(queues=queues)
    url = sink.answer("/bad", 500)
    connect(emulator).create_task(parent=QUEUE, task={"http_request": {"url": url}})
    wait_until(emulator.dispatches, "The attempt is over")

    text = get(emulator, "/")[1]

    assert "then after 200 s<" in text


def test_health(emulator) -> None:
    status, text = get(emulator, "/healthz")

    assert status == 200
    assert json.loads(text) == {
        "status": "ok",
        "grpc": emulator.address,
        "queues": 1,
        "tasks": 0,
    }


def test_reset_by_post_only(emulator, client) -> None:
    client.pause_queue(name=QUEUE)

    assert get(emulator, "/reset")[0] == 405
    assert emulator.queues()[0].paused
    assert post(emulator, "/reset", {})[0] == 200
    assert not emulator.queues()[0].paused


def test_discovery_leads_to_the_keys(emulator) -> None:
    document = json.loads(get(emulator, "/.well-known/openid-configuration")[1])
    keys = json.loads(get(emulator, urlsplit(document["jwks_uri"]).path)[1])["keys"]
    pems = json.loads(get(emulator, "/oauth2/v1/certs")[1])

    assert document["issuer"] == emulator.http_address
    assert [key["kid"] for key in keys] == list(pems)
    assert keys[0]["alg"] == "RS256"
    assert "BEGIN PUBLIC KEY" in pems[keys[0]["kid"]]
