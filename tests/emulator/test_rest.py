"""REST by hand: what curl and clients in other languages send, and mistakes."""

from __future__ import annotations

import base64
import json

import pytest

from cloudtask.emulator.protocol import rules_of
from cloudtask.emulator.protocol.rules import _rule
from tests.emulator.asking import ask
from tests.emulator.conftest import QUEUE

TASKS = f"/v2/{QUEUE}/tasks"


@pytest.fixture(autouse=True)
def _paused(client) -> None:
    client.pause_queue(name=QUEUE)


def task_json(url: str = "https://h/", **fields: object) -> str:
    return json.dumps({"task": {"httpRequest": {"url": url, **fields}}})


def test_a_task_is_created_and_shown_in_camel_case(emulator) -> None:
    body = base64.b64encode(b"\x00secret").decode()

    answer = ask(emulator, "POST", TASKS, task_json(body=body))

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    task = answer.json
    assert task["httpRequest"]["httpMethod"] == "POST"
    assert task["dispatchDeadline"] == "600s"
    assert task["scheduleTime"].endswith("Z")
    assert "body" not in task["httpRequest"]
    full = ask(emulator, "GET", f"/v2/{task['name']}?responseView=FULL").json
    assert full["httpRequest"]["body"] == body
    assert full["view"] == "FULL"


def test_enums_are_numbers_for_clients_that_ask_for_them(emulator) -> None:
    alt = "$alt=json;enum-encoding=int"

    assert ask(emulator, "GET", f"/v2/{QUEUE}?{alt}").json["state"] == 2
    assert ask(emulator, "GET", f"/v2/{QUEUE}").json["state"] == "PAUSED"


def test_a_listing_has_pages(emulator) -> None:
    for _ in range(3):
        ask(emulator, "POST", TASKS, task_json())

    first = ask(emulator, "GET", f"{TASKS}?pageSize=2").json
    token = first["nextPageToken"]
    last = ask(emulator, "GET", f"{TASKS}?page_size=2&pageToken={token}").json

    assert [len(page["tasks"]) for page in (first, last)] == [2, 1]
    assert "nextPageToken" not in last


@pytest.mark.parametrize(
    "mask",
    ["rateLimits.maxDispatchesPerSecond", "rate_limits.max_dispatches_per_second"],
)
def test_a_mask_may_be_in_camel_case_or_in_snake_case(emulator, mask: str) -> None:
    path = f"/v2/{QUEUE}?updateMask={mask}"
    body = json.dumps({"rateLimits": {"maxDispatchesPerSecond": 7}})

    assert ask(emulator, "PATCH", path, body).json["rateLimits"] == {
        "maxDispatchesPerSecond": 7.0,
        "maxBurstSize": 10,
        "maxConcurrentDispatches": 1000,
    }


def test_parameters_that_all_apis_of_google_have_are_let_through(emulator) -> None:
    answer = ask(emulator, "GET", f"/v2/{QUEUE}?key=k&prettyPrint=false&alt=json")

    assert answer.status == 200


def test_a_deleted_task_answers_with_nothing(emulator) -> None:
    name = ask(emulator, "POST", TASKS, task_json()).json["name"]

    assert ask(emulator, "DELETE", f"/v2/{name}").json == {}
    assert ask(emulator, "DELETE", f"/v2/{name}").status == 404


def test_run_task_with_a_port_waits_for_the_end(emulator, sink) -> None:
    task = json.dumps({"task": {"appEngineHttpRequest": {"relativeUri": "/here"}}})
    name = ask(emulator, "POST", TASKS, task).json["name"]
    port = sink.url.rpartition(":")[2]

    answer = ask(emulator, "POST", f"/v2/{name}%3Fport%3D{port}:run", "{}")

    assert answer.json["lastAttempt"]["responseTime"]
    assert [request.path for request in sink.requests] == ["/here"]


def test_an_error_has_the_form_of_googles(emulator) -> None:
    task = json.dumps({"task": {"name": f"{QUEUE}/tasks/a b"}})

    answer = ask(emulator, "POST", TASKS, task)

    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert error["message"].startswith('Task ID "a b" can contain only letters')
    (detail,) = error["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.Help"


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "null",
        "1",
        '"task"',
        '{"task": []}',
        '{"task": {"httpRequest": "x"}}',
        '{"task": {"httpRequest": {"url": 1}}}',
        '{"task": {"httpRequest": {"body": "%"}}}',
        '{"task": {"scheduleTime": "tomorrow"}}',
        '{"task": {"dispatchDeadline": 600}}',
        '{"tsk": {}}',
        '{"responseView": "HALF"}',
        '{"task": {"httpRequest": {"headers": [1]}}}',
        '{"task": {"httpRequest": {"url": "\\ud800"}}}',
        '{"task": {"dispatchDeadline": "\\ud800"}}',
        "[" * 100_000,
        '{"task":' * 5_000,
        '{"task": {"dispatchCount": %s}}' % ("9" * 5_000),
        b"\xff\xfe{",
    ],
)
def test_a_body_that_is_no_request_is_refused_with_a_sentence(emulator, body) -> None:
    answer = ask(emulator, "POST", TASKS, body)

    assert answer.status == 400
    assert answer.json["error"]["status"] == "INVALID_ARGUMENT"
    assert answer.json["error"]["message"]


@pytest.mark.parametrize(
    "query", ["colour=red", "pageSize=many", "pageSize.x=1", "a.b.c=1", "=1", "..=1"]
)
def test_a_wrong_parameter_is_refused(emulator, query) -> None:
    answer = ask(emulator, "GET", f"{TASKS}?{query}")

    assert answer.status == 400
    assert "Invalid query parameter" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("GET", "/v2/projects"),
        ("POST", f"/v2/{QUEUE}:explode"),
        ("PUT", f"/v2/{QUEUE}"),
        ("GET", f"/v2/{QUEUE}/tasks/a/b"),
        ("POST", "/v2beta2/projects/p/locations/l/queues/default/tasks:batchCreate"),
        ("OPTIONS", TASKS),
    ],
)
def test_a_wrong_path_is_told(emulator, method, path) -> None:
    answer = ask(emulator, method, path, "{}" if method == "POST" else None)

    assert answer.status == 404
    assert f"{method} {path} is not a call" in answer.json["error"]["message"]


def test_a_call_of_pull_queues_is_not_implemented(emulator) -> None:
    answer = ask(emulator, "POST", f"/v2beta2/{QUEUE}/tasks:lease", "{}")

    assert answer.status == 501
    assert "LeaseTasks" in answer.json["error"]["message"]


def test_a_page_of_another_site_can_neither_read_nor_write(emulator) -> None:
    for method, path in (("POST", TASKS), ("DELETE", f"/v2/{QUEUE}")):
        foreign = ask(emulator, method, path, "{}", Origin="http://evil.example")
        assert foreign.status == 403
    assert ask(emulator, "GET", f"/v2/{QUEUE}", Host="evil.example").status == 403


def test_a_body_beyond_all_limits_is_refused_before_it_is_read(emulator) -> None:
    answer = ask(emulator, "POST", TASKS, b"", Content_Length=str(1 << 40))

    assert answer.status == 413


def test_the_rules_are_those_of_the_installed_client() -> None:
    rules = {rule.call: rule for rule in rules_of("v2")}

    rule = rules["UpdateQueue"]
    assert (rule.method, rule.fields, rule.body) == ("PATCH", ("queue.name",), "queue")
    assert rule.path.fullmatch(f"/v2/{QUEUE}")
    assert len(rules) > 20


def test_two_stars_of_a_rule_are_many_segments() -> None:
    option = {"method": "get", "uri": "/v1/{name=operations/**}:x"}

    match = _rule("GetOperation", option).path.fullmatch("/v1/operations/a/b:x")

    assert match
    assert match[1] == "operations/a/b"
