"""The requests that dispatches become: headers, bodies, overrides."""

from __future__ import annotations

import pytest

from cloudtask.emulator.dispatch.request import (
    Target,
    outgoing,
    overridden_url,
    with_port,
)
from cloudtask.emulator.protocol import v2
from cloudtask.emulator.queues import Queue, Response, RetryPolicy, Task
from tests.emulator.simulation import START, make_queue, make_task

TARGET = Target("http://app:8000/", {"worker": "http://worker:9000"})


class NamedTokens:
    def oidc(self, email: str, audience: str) -> str:
        return f"oidc:{email}:{audience}"

    def oauth(self, email: str, scope: str) -> str:
        return f"oauth:{email}:{scope}"


def request_of(queue: Queue, task: Task, **options: object):
    queue.add(task)
    dispatch = queue.take(START)
    assert dispatch is not None
    return outgoing(queue, dispatch, target=TARGET, tokens=NamedTokens(), **options)


def sequence(statuses: list[int | None], *, app_engine: bool) -> list[dict[str, str]]:
    """The task headers of each attempt when the attempts are answered like that."""
    queue = make_queue(retry=RetryPolicy(min_backoff=1, max_backoff=1))
    queue.rate_limits = False
    queue.add(make_task(app_engine=app_engine))
    seen, now = [], START
    for status in statuses:
        dispatch = queue.take(now)
        assert dispatch is not None
        request = outgoing(queue, dispatch, target=TARGET, tokens=NamedTokens())
        seen.append(
            {
                name.partition("-")[2].partition("-")[2]: value
                for name, value in request.headers.items()
                if name.startswith("X-")
            }
        )
        queue.finish(dispatch, Response(status), now=now)
        now += 2
    return seen


STATUSES = [503, 404, 429, 500, 302, None, 200]


def test_an_http_target_counts_executions_without_5xx_and_silence() -> None:
    seen = sequence(STATUSES, app_engine=False)

    counts = [each["TaskExecutionCount"] for each in seen]
    assert counts == ["0", "0", "1", "2", "2", "3", "3"]
    assert [each["TaskRetryCount"] for each in seen] == list("0123456")
    previous = [each.get("TaskPreviousResponse") for each in seen]
    assert previous == [None, "503", "404", "429", "500", "302", "504"]
    reasons = [each.get("TaskRetryReason") for each in seen]
    assert reasons == [None, "", "", "", "", "", ""]


def test_app_engine_counts_every_response() -> None:
    seen = sequence(STATUSES, app_engine=True)

    counts = [each["TaskExecutionCount"] for each in seen]
    assert counts == ["0", "1", "2", "3", "4", "5", "5"]
    previous = [each.get("TaskPreviousResponse") for each in seen]
    assert previous == [None, "503", "404", "429", "500", "302", "0"]
    reasons = [each.get("TaskRetryReason") for each in seen]
    assert reasons == [None, *["App Error"] * 5, "Instance Unavailable"]


def test_the_eta_is_unix_seconds_with_a_fraction() -> None:
    (first,) = sequence([200], app_engine=False)

    assert first["TaskETA"] == f"{START:.6f}"
    assert first["QueueName"] == "q"
    assert first["TaskName"] == "t"


def test_reserved_headers_of_the_client_are_dropped() -> None:
    task = make_task()
    task.message.http_request.headers.update(
        {
            "host": "evil",
            "content-length": "1",
            "User-agent": "mine",
            "X-Google-Secret": "1",
            "x-appengine-queuename": "fake",
            "X-CLOUDTASKS-TaskName": "fake",
            "X-Kept": "yes",
        }
    )

    headers = request_of(make_queue(), task).headers

    assert headers["User-Agent"] == "Google-Cloud-Tasks"
    assert headers["X-Kept"] == "yes"
    lowered = [name.lower() for name in headers]
    assert len(lowered) == len(set(lowered))
    assert not {"host", "content-length", "x-google-secret"} & set(lowered)
    assert "fake" not in headers.values()


def test_app_engine_services_may_have_targets_of_their_own() -> None:
    task = make_task(app_engine=True)
    task.message.app_engine_http_request.app_engine_routing.service = "worker"

    assert request_of(make_queue(), task).url == "http://worker:9000/"


def test_the_queues_routing_goes_over_the_tasks() -> None:
    queue = make_queue(routing=v2.AppEngineRouting(service="worker"))

    request = request_of(queue, make_task(app_engine=True))

    assert request.url == "http://worker:9000/"


@pytest.mark.parametrize("app_engine", [False, True])
def test_a_port_replaces_the_targets(app_engine: bool) -> None:
    request = request_of(make_queue(), make_task(app_engine=app_engine), port=81)

    assert request.url in ("http://target:81/", "http://app:81/")


def test_an_oidc_token_is_for_the_target_unless_told() -> None:
    task = make_task()
    task.message.http_request.oidc_token.service_account_email = "a@b"

    headers = request_of(make_queue(), task).headers

    assert headers["Authorization"] == "Bearer oidc:a@b:http://target/"


def test_a_queue_overrides_method_headers_token_and_url() -> None:
    override = v2.HttpTarget(http_method=2)
    override.uri_override.host = "other"
    override.header_overrides.add().header.key = "X-Kind"
    override.header_overrides[0].header.value = "queue"
    override.oauth_token.service_account_email = "q@b"
    override.oauth_token.scope = "s"
    task = make_task()
    task.message.http_request.headers["x-kind"] = "task"
    task.message.http_request.body = b"ignored"
    task.message.http_request.oidc_token.service_account_email = "a@b"

    request = request_of(make_queue(http_target=override), task)

    assert (request.method, request.url) == ("GET", "http://other/")
    assert request.body == b""
    assert request.headers["X-Kind"] == "queue"
    assert request.headers["Authorization"] == "Bearer oauth:q@b:s"


@pytest.mark.parametrize(
    ("override", "mode", "expected"),
    [
        ({"scheme": 2}, 0, "https://a:1/p?q=1"),
        ({"scheme": 1}, 0, "http://a:1/p?q=1"),
        ({"host": "b"}, 0, "http://b:1/p?q=1"),
        ({"port": 9}, 0, "http://a:9/p?q=1"),
        ({"port": 0}, 0, "http://a/p?q=1"),
        ({"path_override": {"path": "/n"}}, 0, "http://a:1/n?q=1"),
        ({"path_override": {"path": ""}}, 0, "http://a:1?q=1"),
        ({"query_override": {"query_params": "z=2"}}, 0, "http://a:1/p?z=2"),
        ({"query_override": {"query_params": ""}}, 0, "http://a:1/p"),
        ({"host": "b", "port": 9, "scheme": 2}, 1, "http://a:1/p?q=1"),
        ({"path_override": {"path": "/n"}}, 1, "http://a:1/p?q=1"),
    ],
)
def test_uri_overrides(override: dict, mode: int, expected: str) -> None:
    from google.protobuf.json_format import ParseDict

    message = ParseDict(override, v2.HttpTarget().uri_override)
    message.uri_override_enforce_mode = mode

    assert overridden_url("http://a:1/p?q=1", message) == expected


def test_what_the_url_lacks_is_added_in_the_mode_if_not_exists() -> None:
    message = v2.HttpTarget().uri_override
    message.uri_override_enforce_mode = 1
    message.port = 9
    message.path_override.path = "n"
    message.query_override.query_params = "z=2"

    assert overridden_url("http://a", message) == "http://a:9/n?z=2"


def test_a_port_is_put_behind_an_ipv6_address() -> None:
    assert with_port("http://[::1]:80/x", 81) == "http://[::1]:81/x"
