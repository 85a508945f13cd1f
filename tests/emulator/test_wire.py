"""Features that only this emulator has: its target, its tokens, its chaos."""

from __future__ import annotations

import json
import random
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import grpc
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport import requests as google_requests
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksRestTransport,
)
from google.oauth2 import id_token

from cloudtask.emulator import Emulator
from cloudtask.emulator.tokens import SigningKey, TokenMaker
from tests.emulator.conftest import FAST, QUEUE, client_of
from tests.emulator.recorded import DISPATCHES
from tests.emulator.sink import Request
from tests.support.waiting import PATIENCE


def test_the_headers_of_an_app_engine_task_are_those_recorded(client, sink) -> None:
    recorded = DISPATCHES["dispatch/appengine"]
    sink.answer("/task?a=1", *recorded.statuses)
    request = {"relative_uri": "/task?a=1", "body": b"b"}
    client.create_task(parent=QUEUE, task={"app_engine_http_request": request})

    requests = sink.wait_for(len(recorded.statuses))

    assert [attempt_of(each, "appengine") for each in requests] == list(
        recorded.attempts
    )
    assert {each.headers["User-Agent"] for each in requests} == {recorded.agent}
    assert {each.headers["Content-Type"] for each in requests} == {
        "application/octet-stream"
    }


@pytest.mark.parametrize(
    ("kind", "prefix", "case"),
    [
        ("http_request", "cloudtasks", "dispatch/http-timeout"),
        ("app_engine_http_request", "appengine", "dispatch/appengine-timeout"),
    ],
)
def test_the_headers_after_no_response_are_those_recorded(
    start, connect, sink, kind, prefix, case
) -> None:
    emulator = start(
        target=sink.url,
        queues={"default": {"backoff": "1ms..1ms", "max_attempts": 2}},
        chaos="drop-response=1",
    )
    target = {"url": sink.url} if kind == "http_request" else {}
    connect(emulator).create_task(parent=QUEUE, task={kind: target})

    requests = sink.wait_for(2)

    recorded = DISPATCHES[case]
    assert [attempt_of(each, prefix) for each in requests] == list(recorded.attempts)


def attempt_of(request: Request, prefix: str) -> dict[str, str]:
    """The headers of an attempt that don't name queue, task and time."""
    names = ("queuename", "taskname", "tasketa")
    facts = request.facts(prefix)
    return {name: value for name, value in facts.items() if name not in names}


@pytest.mark.parametrize("audience", ["", "https://app.example"])
def test_google_auth_verifies_the_token(emulator, client, sink, audience) -> None:
    account = {"service_account_email": "tasks@p.example", "audience": audience}
    url = sink.url + "/run?x=1"
    task = {"http_request": {"url": url, "oidc_token": account}}
    client.create_task(parent=QUEUE, task=task)
    (request,) = sink.wait_for(1)
    token = request.headers["Authorization"].removeprefix("Bearer ")

    claims = id_token.verify_token(
        token,
        google_requests.Request(),
        audience=audience or url,
        certs_url=f"{emulator.http_address}/oauth2/v1/certs",
    )

    assert claims["iss"] == emulator.http_address
    assert claims["email"] == "tasks@p.example"
    assert claims["email_verified"] is True


def test_a_token_of_another_key_is_not_verified(emulator) -> None:
    stranger = TokenMaker(SigningKey(), lambda: emulator.http_address, lambda: 2e9)

    with pytest.raises(ValueError, match=r"[Cc]ertificate|signature"):
        id_token.verify_token(
            stranger.oidc("a@b", "aud"),
            google_requests.Request(),
            audience="aud",
            certs_url=f"{emulator.http_address}/oauth2/v1/certs",
        )


def test_tokens_are_reused_for_five_minutes_of_their_hour() -> None:
    now = [1000.0]
    maker = TokenMaker(SigningKey(), lambda: "iss", lambda: now[0])
    first = maker.oidc("a@b", "aud")

    now[0] += 299
    assert maker.oidc("a@b", "aud") == first
    assert maker.oidc("a@b", "other") != first
    now[0] += 2
    assert maker.oidc("a@b", "aud") != first


def test_an_oauth_token_is_a_bearer_of_its_own(client, sink) -> None:
    account = {"service_account_email": "tasks@p.example"}
    task = {"http_request": {"url": sink.url, "oauth_token": account}}
    client.create_task(parent=QUEUE, task=task)

    (request,) = sink.wait_for(1)

    assert request.headers["Authorization"].startswith("Bearer ya29.")


def test_run_task_with_a_port_goes_there_and_waits(start, connect, sink) -> None:
    emulator = start(target="http://127.0.0.1:1", queues={"default": {"paused": True}})
    client = connect(emulator)
    request = {"relative_uri": "/here"}
    name = client.create_task(
        parent=QUEUE, task={"app_engine_http_request": request}
    ).name
    port = sink.url.rpartition(":")[2]

    task = client.run_task(name=f"{name}?port={port}")

    assert [request.path for request in sink.requests] == ["/here"]
    assert task.last_attempt.response_time
    assert emulator.tasks() == []


def test_a_client_that_hangs_up_leaves_its_run_task_running(
    emulator, client, sink
) -> None:
    client.pause_queue(name=QUEUE)
    name = client.create_task(
        parent=QUEUE, task={"app_engine_http_request": {"relative_uri": "/slow"}}
    ).name
    sink.hold.clear()
    port = sink.url.rpartition(":")[2]

    with client_of(emulator.address) as other, ThreadPoolExecutor() as pool:
        waiting = pool.submit(other.run_task, name=f"{name}?port={port}", timeout=60)
        sink.wait_for(1)
        other.transport.close()
        with pytest.raises(exceptions.Cancelled):
            waiting.result()
    sink.hold.set()
    emulator.wait_idle()

    assert [record.verdict for record in emulator.dispatches()] == ["done"]


def test_run_task_with_a_bad_port_is_refused(client) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="port"):
        client.run_task(name=f"{QUEUE}/tasks/a?port=x")


def test_a_task_may_run_twice_at_once(client, emulator, sink) -> None:
    sink.hold.clear()
    name = client.create_task(
        parent=QUEUE, task={"http_request": {"url": sink.url}}
    ).name
    sink.wait_for(1)

    client.run_task(name=name)

    sink.wait_for(2)
    sink.hold.set()
    emulator.wait_idle()
    assert {record.verdict for record in emulator.dispatches()} == {
        "done",
        "already gone",
    }


def test_chaos_duplicates_what_succeeds(start, connect, sink) -> None:
    emulator = start(queues=FAST, chaos="duplicate=1,max-delay=0.01", seed=1)
    client = connect(emulator)
    for _ in range(5):
        client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})

    sink.wait_for(10)
    emulator.wait_idle()

    assert len(sink.requests) == 10
    verdicts = [record.verdict for record in emulator.dispatches()]
    assert sorted(verdicts) == ["done"] * 5 + ["duplicate"] * 5


def test_a_lost_response_means_another_attempt(start, connect, sink) -> None:
    emulator = start(queues=FAST, chaos="drop-response=0.5", seed=3)
    client = connect(emulator)
    for _ in range(20):
        client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})

    emulator.wait_idle()

    assert emulator.tasks() == []
    assert len(sink.requests) > 20
    problems = {record.problem for record in emulator.dispatches()}
    assert problems == {"", "chaos dropped 200"}


def test_an_unreachable_target_is_tried_again(start, connect) -> None:
    emulator = start(queues={"default": {"backoff": "1ms..1ms", "max_attempts": 3}})
    task = {"http_request": {"url": "http://127.0.0.1:1/"}}
    connect(emulator).create_task(parent=QUEUE, task=task)

    emulator.wait_idle()

    records = emulator.dispatches()
    assert [record.status for record in records] == [None] * 3
    assert [record.verdict for record in records] == ["retry", "retry", "given up"]
    assert all(record.problem for record in records)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:port/"])
def test_a_url_that_nobody_can_call_only_fails(start, connect, url) -> None:
    emulator = start(queues={"default": {"backoff": "1ms..1ms", "max_attempts": 2}})
    connect(emulator).create_task(parent=QUEUE, task={"http_request": {"url": url}})

    emulator.wait_idle()

    assert [record.verdict for record in emulator.dispatches()] == ["retry", "given up"]


def test_other_projects_are_denied_when_some_are_given(start, connect) -> None:
    client = connect(start(projects=["p"]))
    other = "projects/other/locations/l"

    with pytest.raises(exceptions.PermissionDenied, match="other"):
        client.create_queue(parent=other, queue={"name": f"{other}/queues/q"})
    with pytest.raises(exceptions.PermissionDenied):
        client.get_queue(name=f"{other}/queues/q")
    assert client.get_queue(name=QUEUE).name == QUEUE


def test_a_refusal_carries_the_link_that_explains_it(client) -> None:
    with pytest.raises(exceptions.InvalidArgument) as caught:
        client.create_task(
            parent=QUEUE,
            task={"name": f"{QUEUE}/tasks/a b", "http_request": {"url": "http://h"}},
        )

    assert "Definition of task ID" in str(caught.value.details)


def test_many_clients_at_once_lose_nothing(emulator, client, sink) -> None:
    def create() -> None:
        for _ in range(25):
            client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emulator.wait_idle(30)

    names = [request.facts("cloudtasks")["taskname"] for request in sink.requests]
    assert len(names) == len(set(names)) == 200


def test_everything_at_once_leaves_the_queue_in_order(start, connect, sink) -> None:
    emulator = start(queues=FAST, rate_limits=False)
    client = connect(emulator)
    sink.answer("/flaky", *[500, 200] * 100)
    errors: list[Exception] = []

    def act(seed: int) -> None:
        dice = random.Random(seed)
        task = {"http_request": {"url": sink.url + dice.choice(["/ok", "/flaky"])}}
        for _ in range(40):
            name = client.create_task(parent=QUEUE, task=task).name
            calls = [
                lambda: client.pause_queue(name=QUEUE),
                lambda: client.resume_queue(name=QUEUE),
                lambda: list(client.list_tasks(parent=QUEUE)),
                lambda name=name: client.delete_task(name=name),
                lambda name=name: client.run_task(name=name),
                lambda name=name: client.get_task(name=name),
            ]
            try:
                dice.choice(calls)()
            except exceptions.NotFound:
                continue  # it ran before we came
            except Exception as error:  # noqa: BLE001 - shown by the assertion
                errors.append(error)

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.resume_queue(name=QUEUE)
    emulator.wait_idle(30)

    assert errors == []
    (info,) = emulator.queues()
    assert (info.depth, info.running) == (0, 0)


def test_grpc_on_the_http_port_is_told_the_right_one(emulator) -> None:
    address = emulator.http_address.removeprefix("http://")
    with client_of(address) as client:
        for _ in range(2):
            with pytest.raises(exceptions.MethodNotImplemented) as caught:
                client.create_task(
                    parent=QUEUE,
                    task={"http_request": {"url": "http://h/", "body": b"x" * 300_000}},
                )

    assert f"Its gRPC port is {emulator.address}." in caught.value.message


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_rest_on_the_grpc_port_is_told_the_right_one(emulator, method: str) -> None:
    body = b"x" * 300_000 if method == "POST" else None
    url = f"http://{emulator.address}/v2/{QUEUE}/tasks"
    request = urllib.request.Request(url, method=method, data=body)

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)

    assert caught.value.code == 421
    error = json.load(caught.value)["error"]
    assert error["message"] == (
        f"{emulator.address} is the gRPC port of the Cloud Tasks emulator. "
        f"REST and the status page are at {emulator.http_address}."
    )


def test_the_rest_client_shows_the_sentence_of_the_grpc_port(emulator) -> None:
    transport = CloudTasksRestTransport(
        host=f"http://{emulator.address}", credentials=AnonymousCredentials()
    )

    with (
        tasks_v2.CloudTasksClient(transport=transport) as client,
        pytest.raises(exceptions.GoogleAPICallError, match=r"REST .* are at http://"),
    ):
        client.get_task(name=f"{QUEUE}/tasks/1")


def test_large_requests_and_answers_pass_through_the_grpc_port(client) -> None:
    client.pause_queue(name=QUEUE)
    body = bytes(range(256)) * 3_900
    task = {"http_request": {"url": "http://h/", "body": body}}
    names = [client.create_task(parent=QUEUE, task=task).name for _ in range(12)]

    view = tasks_v2.Task.View.FULL
    wanted = {"parent": QUEUE, "response_view": view, "page_size": 4}
    listed = list(client.list_tasks(request=wanted))

    assert {each.name for each in listed} == set(names)
    assert {each.http_request.body for each in listed} == {body}


def test_a_taken_grpc_port_is_an_error(emulator) -> None:
    taken = int(emulator.address.rpartition(":")[2])
    with pytest.raises(OSError, match=str(taken)):
        Emulator(port=taken).start()


@pytest.mark.parametrize("side", ["http", "grpc"])
@pytest.mark.parametrize("beginning", [b"", b"P", b"PR"])
def test_a_connection_that_says_nothing_does_not_hold_up_the_end(
    side: str, beginning: bytes
) -> None:
    with Emulator() as emulator:
        address = emulator.http_address if side == "http" else f"//{emulator.address}"
        parts = urlsplit(address)
        silent = socket.create_connection((parts.hostname, parts.port))
        silent.sendall(beginning)
        wrong = socket.create_connection((parts.hostname, parts.port))
        wrong.sendall(b"PRI * HTTP/2.0")
        if side == "http":
            assert wrong.recv(9)  # the frame SETTINGS
    with silent, wrong:
        silent.settimeout(PATIENCE)
        assert silent.recv(1) == b""


@pytest.mark.parametrize(
    "garbage",
    [b"PRI nothing", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100],
)
def test_a_connection_that_begins_as_http2_and_is_not_is_closed(
    emulator, garbage: bytes
) -> None:
    parts = urlsplit(emulator.http_address)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(garbage)
        assert len(connection.makefile("rb").read()) <= 9


def test_an_unknown_method_is_told_by_its_path(emulator) -> None:
    path = "/google.cloud.tasks.v2.CloudTasks/BufferTask"
    with (
        grpc.insecure_channel(emulator.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(path)(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert path in caught.value.details()


def test_app_engine_appends_to_the_user_agent(client, sink) -> None:
    request = {"headers": {"user-agent": "mine/1"}}
    client.create_task(parent=QUEUE, task={"app_engine_http_request": request})

    (request,) = sink.wait_for(1)

    agent = "mine/1 AppEngine-Google; (+http://code.google.com/appengine)"
    assert request.headers["User-Agent"] == agent


def test_the_proto_plus_types_are_what_tests_get(client, emulator) -> None:
    client.pause_queue(name=QUEUE)
    client.create_task(
        parent=QUEUE, task={"http_request": {"url": "http://h/", "body": b"x"}}
    )

    (task,) = emulator.tasks("default")

    assert isinstance(task, tasks_v2.Task)
    assert task.http_request.body == b"x"
