"""Cloud Tasks as the real clients see it: over gRPC and REST, in v2 and v2beta3.

Runs against an emulator of its own, or over gRPC in v2 against the endpoint in
CLOUDTASK_CONFORMANCE_ENDPOINT: "host:port" of another emulator on this machine, or
Google's "cloudtasks.googleapis.com" (with credentials). There,
CLOUDTASK_CONFORMANCE_PARENT is "projects/P/locations/L". Google can't reach a target on
this machine: its dispatches are left out.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.iam.v1 import iam_policy_pb2, policy_pb2  # type: ignore[import-untyped]
from google.protobuf import duration_pb2, field_mask_pb2

from cloudtask.emulator import Emulator
from tests.emulator.conftest import client_of, rest_client_of
from tests.emulator.recorded import DISPATCHES, REFUSALS, STORED, Refusal
from tests.emulator.sink import Sink
from tests.support.waiting import wait_until

ENDPOINT = os.environ.get("CLOUDTASK_CONFORMANCE_ENDPOINT", "")
PARENT = os.environ.get("CLOUDTASK_CONFORMANCE_PARENT", "projects/p/locations/l")
IS_GOOGLE = "googleapis.com" in ENDPOINT
WAYS = (
    ["grpc v2"] if ENDPOINT else ["grpc v2", "rest v2", "grpc v2beta3", "rest v2beta3"]
)
TIMEOUT = 25.0  # seconds for a call; the service takes no more than 30

dispatching = pytest.mark.skipif(IS_GOOGLE, reason="Google can't reach this machine")
# Numbers, as each version of the client has enums of its own.
RUNNING, PAUSED = 1, 2
BASIC, FULL = 1, 2
POST = 1
HTTP_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator | None]:
    if ENDPOINT:
        yield None
        return
    with Emulator(queues=()) as emulator:
        yield emulator


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The transport and the version of the API."""
    return request.param


@pytest.fixture(scope="module")
def client(way: str, emulator: Emulator | None) -> Iterator[tasks_v2.CloudTasksClient]:
    transport, version = way.split()
    with ExitStack() as stack:
        if IS_GOOGLE:
            options = {"api_endpoint": ENDPOINT}
            yield stack.enter_context(tasks_v2.CloudTasksClient(client_options=options))
        elif emulator is None:
            yield stack.enter_context(client_of(ENDPOINT))
        elif transport == "rest":
            yield stack.enter_context(rest_client_of(emulator.http_address, version))
        else:
            yield stack.enter_context(client_of(emulator.address, version))


@pytest.fixture
def name() -> str:
    """The name of a queue that was never used."""
    return f"{PARENT}/queues/conformance-{uuid.uuid4().hex[:20]}"


@pytest.fixture
def queue(client: tasks_v2.CloudTasksClient, name: str) -> Iterator[str]:
    """A queue that retries at once."""
    retry = {"min_backoff": "0.01s", "max_backoff": "0.1s"}
    retry = {key: _duration(value) for key, value in retry.items()}
    client.create_queue(
        parent=PARENT, queue={"name": name, "retry_config": retry}, timeout=TIMEOUT
    )
    yield name
    client.delete_queue(name=name, timeout=TIMEOUT)


@pytest.fixture
def paused(client: tasks_v2.CloudTasksClient, queue: str) -> str:
    client.pause_queue(name=queue, timeout=TIMEOUT)
    return queue


def _duration(text: str) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromJsonString(text)
    return duration


def http(url: str = "http://127.0.0.1:1/", **fields: object) -> dict:
    own = ("headers", "body", "oidc_token", "oauth_token")
    request = {key: fields.pop(key) for key in own if key in fields}
    return {"http_request": {"url": url, **request}, **fields}


def create(client: tasks_v2.CloudTasksClient, queue: str, task: dict, **more: object):
    request = {"parent": queue, "task": task, **more}
    return client.create_task(request=request, timeout=TIMEOUT)


def code_of(error: exceptions.GoogleAPICallError) -> str | int:
    """The code of gRPC; over REST that of HTTP."""
    return error.grpc_status_code.name if error.grpc_status_code else int(error.code)


def kind_of(detail: object) -> str:
    """The name of a message of google.rpc; over REST it is a dict."""
    if isinstance(detail, dict):
        return str(detail["@type"].rpartition(".")[2])
    return type(detail).__name__


# Queues.


def test_a_new_queue_has_the_defaults(client, name) -> None:
    shown = client.create_queue(parent=PARENT, queue={"name": name}, timeout=TIMEOUT)

    assert shown.name == name
    assert shown.state == RUNNING
    assert shown.rate_limits.max_dispatches_per_second == 500
    assert shown.rate_limits.max_concurrent_dispatches == 1000
    assert shown.retry_config.max_attempts == 100
    assert shown.retry_config.max_doublings == 16
    assert shown.retry_config.min_backoff == timedelta(seconds=0.1)
    assert shown.retry_config.max_backoff == timedelta(hours=1)
    assert client.get_queue(name=name, timeout=TIMEOUT) == shown


def test_a_queue_is_created_once(client, queue) -> None:
    with pytest.raises(exceptions.Conflict):
        client.create_queue(parent=PARENT, queue={"name": queue}, timeout=TIMEOUT)


def test_the_name_of_a_deleted_queue_rests(client, name) -> None:
    client.create_queue(parent=PARENT, queue={"name": name}, timeout=TIMEOUT)
    client.delete_queue(name=name, timeout=TIMEOUT)

    with pytest.raises(exceptions.BadRequest):
        client.create_queue(parent=PARENT, queue={"name": name}, timeout=TIMEOUT)
    with pytest.raises(exceptions.NotFound):
        client.get_queue(name=name, timeout=TIMEOUT)


@pytest.mark.parametrize(
    "call", ["get_queue", "delete_queue", "pause_queue", "resume_queue", "purge_queue"]
)
def test_a_queue_that_never_was_is_not_found(client, name, call) -> None:
    with pytest.raises(exceptions.NotFound):
        getattr(client, call)(name=name, timeout=TIMEOUT)


@pytest.mark.parametrize("bad", ["a_b", "", "a b", "x" * 101])
def test_a_bad_queue_id_is_refused(client, bad) -> None:
    with pytest.raises(exceptions.BadRequest):
        client.create_queue(
            parent=PARENT, queue={"name": f"{PARENT}/queues/{bad}"}, timeout=TIMEOUT
        )


@pytest.mark.parametrize(
    "config",
    [
        {"rate_limits": {"max_dispatches_per_second": 501}},
        {"rate_limits": {"max_dispatches_per_second": -1}},
        {"rate_limits": {"max_concurrent_dispatches": 5001}},
        {"rate_limits": {"max_concurrent_dispatches": -1}},
        {"retry_config": {"max_attempts": -2}},
        {"retry_config": {"max_doublings": -1}},
        {"retry_config": {"min_backoff": _duration("-1s")}},
        {
            "retry_config": {
                "min_backoff": _duration("20s"),
                "max_backoff": _duration("10s"),
            }
        },
    ],
)
def test_a_configuration_out_of_range_is_refused(client, name, config) -> None:
    with pytest.raises(exceptions.BadRequest):
        client.create_queue(
            parent=PARENT, queue={"name": name, **config}, timeout=TIMEOUT
        )


def test_an_update_changes_the_masked_fields_only(client, queue) -> None:
    before = client.get_queue(name=queue, timeout=TIMEOUT)
    changed = {
        "name": queue,
        "rate_limits": {"max_dispatches_per_second": 7, "max_concurrent_dispatches": 3},
        "retry_config": {"max_attempts": 4},
    }
    mask = field_mask_pb2.FieldMask(paths=["rate_limits.max_dispatches_per_second"])

    client.update_queue(queue=changed, update_mask=mask, timeout=TIMEOUT)

    after = client.get_queue(name=queue, timeout=TIMEOUT)
    assert after.rate_limits.max_dispatches_per_second == 7
    assert (
        after.rate_limits.max_concurrent_dispatches
        == before.rate_limits.max_concurrent_dispatches
    )
    assert after.retry_config == before.retry_config


def test_an_update_without_a_mask_sets_everything(client, queue) -> None:
    client.update_queue(
        queue={"name": queue, "retry_config": {"max_attempts": 4}}, timeout=TIMEOUT
    )

    after = client.get_queue(name=queue, timeout=TIMEOUT)
    assert after.retry_config.max_attempts == 4
    assert after.retry_config.min_backoff == timedelta(seconds=0.1)


def test_no_doublings_can_be_asked_for_by_mask(client, queue) -> None:
    for path in ("retry_config.max_doublings", "rate_limits.max_concurrent_dispatches"):
        mask = field_mask_pb2.FieldMask(paths=[path])
        client.update_queue(
            queue={"name": queue, "rate_limits": {"max_concurrent_dispatches": 9}},
            update_mask=mask,
            timeout=TIMEOUT,
        )

    after = client.get_queue(name=queue, timeout=TIMEOUT)
    assert after.retry_config.max_doublings == 0
    assert after.rate_limits.max_concurrent_dispatches == 9


def test_an_update_creates_a_queue_that_is_missing(client, name) -> None:
    client.update_queue(queue={"name": name}, timeout=TIMEOUT)

    assert client.get_queue(name=name, timeout=TIMEOUT).name == name


def test_an_update_of_an_unknown_field_is_refused(client, queue) -> None:
    mask = field_mask_pb2.FieldMask(paths=["colour"])
    with pytest.raises(exceptions.BadRequest):
        client.update_queue(queue={"name": queue}, update_mask=mask, timeout=TIMEOUT)


def test_the_state_is_not_updated_but_paused_and_resumed(client, queue) -> None:
    client.update_queue(
        queue={"name": queue, "state": PAUSED},
        update_mask=field_mask_pb2.FieldMask(paths=["state"]),
        timeout=TIMEOUT,
    )

    assert client.get_queue(name=queue, timeout=TIMEOUT).state == RUNNING
    assert client.pause_queue(name=queue, timeout=TIMEOUT).state == PAUSED
    assert client.get_queue(name=queue, timeout=TIMEOUT).state == PAUSED
    assert client.resume_queue(name=queue, timeout=TIMEOUT).state == RUNNING


def test_queues_are_listed_in_pages_and_filtered(client, name) -> None:
    names = {f"{name}-{number}" for number in range(5)}
    for each in names:
        client.create_queue(parent=PARENT, queue={"name": each}, timeout=TIMEOUT)
    client.pause_queue(name=f"{name}-3", timeout=TIMEOUT)

    request = {"parent": PARENT, "page_size": 2}
    pager = client.list_queues(request=request, timeout=TIMEOUT)
    pages = [list(page.queues) for page in pager.pages]
    stopped = client.list_queues(
        request={"parent": PARENT, "filter": "state: PAUSED"}, timeout=TIMEOUT
    )

    assert all(len(page) <= 2 for page in pages)
    assert names <= {each.name for page in pages for each in page}
    assert names & {each.name for each in stopped} == {f"{name}-3"}


def test_the_iam_calls_are_answered(client, queue) -> None:
    empty = client.get_iam_policy(request={"resource": queue}, timeout=TIMEOUT)
    assert not empty.bindings
    binding = policy_pb2.Binding(role="roles/cloudtasks.viewer", members=["user:a@b.c"])
    policy = client.set_iam_policy(
        request=iam_policy_pb2.SetIamPolicyRequest(
            resource=queue, policy=policy_pb2.Policy(bindings=[binding])
        ),
        timeout=TIMEOUT,
    )

    allowed = client.test_iam_permissions(
        request={"resource": queue, "permissions": ["cloudtasks.tasks.create"]},
        timeout=TIMEOUT,
    )

    assert list(policy.bindings) == [binding]
    assert list(allowed.permissions) == ["cloudtasks.tasks.create"]


def test_the_location_is_known(client, queue) -> None:
    shown = client.get_location(request={"name": PARENT}, timeout=TIMEOUT)

    assert shown.location_id == PARENT.rpartition("/")[2]


# Recorded from the real service.


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda each: each.name)
def test_a_recorded_refusal(way, client, name: str, refusal: Refusal) -> None:
    if way.startswith("rest") and refusal.name == "queue/create/invalid-parent":
        pytest.skip("Over REST the client itself refuses a malformed parent.")
    refusal.prepare(client, name)

    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        refusal.call(client, name)

    error = caught.value
    assert code_of(error) in (refusal.code, HTTP_CODES[refusal.code])
    assert error.message.endswith(refusal.message.format(queue=name))
    assert [kind_of(detail) for detail in error.details] == list(refusal.details)


def test_an_url_with_a_bad_escape_is_taken(client, paused) -> None:
    """The recorded case task/create/invalid-url-bad-escape: it is not refused."""
    assert create(client, paused, http("http://example.com/%zz")).name


@pytest.mark.parametrize("stored", STORED, ids=lambda each: each.name)
def test_the_recorded_headers_of_a_stored_task(client, paused, stored) -> None:
    request = {"headers": stored.sent, "body": b"x" * 17}
    if stored.kind == "http_request":
        request["url"] = "https://example.com/"

    created = create(client, paused, {stored.kind: request}, response_view=FULL)
    basic = client.get_task(name=created.name, timeout=TIMEOUT)
    full = client.get_task(
        request={"name": created.name, "response_view": FULL}, timeout=TIMEOUT
    )

    for task in (created, basic, full):
        assert dict(getattr(task, stored.kind).headers) == stored.shown


# Tasks.


def test_a_new_task_is_shown_with_its_defaults(client, paused) -> None:
    task = create(client, paused, http(body=b"secret"))

    assert task.name.startswith(f"{paused}/tasks/")
    assert task.http_request.http_method == POST
    assert task.dispatch_deadline == timedelta(minutes=10)
    assert task.view == BASIC
    assert task.http_request.body == b""
    assert task.dispatch_count == 0
    assert abs(task.schedule_time - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_full_view_has_the_body(client, paused) -> None:
    name = create(client, paused, http(body=b"secret")).name

    basic = client.get_task(name=name, timeout=TIMEOUT)
    full = client.get_task(
        request={"name": name, "response_view": FULL}, timeout=TIMEOUT
    )

    assert basic.http_request.body == b""
    assert full.http_request.body == b"secret"
    assert full.view == FULL


def test_tasks_are_listed_in_pages(client, paused) -> None:
    names = {create(client, paused, http(body=b"x")).name for _ in range(7)}

    request = {"parent": paused, "page_size": 3}
    pages = [
        list(page.tasks)
        for page in client.list_tasks(request=request, timeout=TIMEOUT).pages
    ]

    assert [len(page) for page in pages] == [3, 3, 1]
    listed = [task for page in pages for task in page]
    assert {task.name for task in listed} == names
    assert all(task.http_request.body == b"" for task in listed)


def test_a_name_is_taken_once(client, paused) -> None:
    name = f"{paused}/tasks/once"
    create(client, paused, http(name=name))

    with pytest.raises(exceptions.Conflict):
        create(client, paused, http(name=name))
    client.delete_task(name=name, timeout=TIMEOUT)
    with pytest.raises(exceptions.Conflict):
        create(client, paused, http(name=name))
    with pytest.raises(exceptions.NotFound):
        client.get_task(name=name, timeout=TIMEOUT)


@pytest.mark.parametrize("call", ["get_task", "delete_task", "run_task"])
def test_a_task_that_never_was_is_not_found(client, queue, call) -> None:
    with pytest.raises(exceptions.NotFound):
        getattr(client, call)(name=f"{queue}/tasks/never", timeout=TIMEOUT)


def test_a_task_needs_a_queue(client, name) -> None:
    with pytest.raises(exceptions.NotFound, match="Queue does not exist"):
        create(client, name, http())


@pytest.mark.parametrize("bad", ["a b", "a.b", "ä", "x" * 501, ""])
def test_a_bad_task_id_is_refused(client, paused, bad) -> None:
    with pytest.raises(exceptions.BadRequest):
        create(client, paused, http(name=f"{paused}/tasks/{bad}"))


def test_a_name_of_another_queue_is_refused(client, paused) -> None:
    with pytest.raises(exceptions.BadRequest, match="must be the same"):
        create(client, paused, http(name=f"{paused}x/tasks/a"))


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"http_request": {"url": ""}},
        http("http://example.com/", oidc_token={"service_account_email": "a@b"}),
        http("http://[", oauth_token={"service_account_email": "a@b"}),
        http("https://example.com/", oidc_token={"audience": "a"}),
        {"http_request": {"url": "ftp://host/"}},
        {"http_request": {"url": "http://host/" + "x" * 2100}},
        {"http_request": {"url": "http://host/", "http_method": "GET", "body": b"x"}},
        {"http_request": {"url": "http://host/", "headers": {"A": "x" * 81_920}}},
        {"app_engine_http_request": {"relative_uri": "no-slash"}},
        {"app_engine_http_request": {"relative_uri": "/a b"}},
        {"app_engine_http_request": {"http_method": "PATCH", "body": b"x"}},
        http(dispatch_deadline=_duration("14s")),
        http(dispatch_deadline=_duration("1801s")),
        {
            "app_engine_http_request": {},
            "dispatch_deadline": _duration("86416s"),
        },
        http(retry_config={"max_attempts": -2}),
    ],
)
def test_a_bad_task_is_refused(client, paused, task) -> None:
    with pytest.raises(exceptions.BadRequest):
        create(client, paused, task)


def test_a_token_may_go_to_a_handler_on_this_machine(client, paused) -> None:
    if IS_GOOGLE:
        pytest.skip("Google takes https:// URLs alone.")
    for url in ("http://127.0.0.1:1/", "http://localhost/", "http://[::1]:80/"):
        create(client, paused, http(url, oidc_token={"service_account_email": "a@b"}))


@pytest.mark.parametrize("seconds", ["15s", "1800s"])
def test_deadlines_at_the_limits_are_taken(client, paused, seconds) -> None:
    task = create(client, paused, http(dispatch_deadline=_duration(seconds)))

    assert task.dispatch_deadline == timedelta(seconds=int(seconds[:-1]))


@pytest.mark.parametrize("kind", ["http_request", "app_engine_http_request"])
def test_the_size_limit_counts_the_stored_task(client, paused, kind) -> None:
    target = {"url": "http://host/"} if kind == "http_request" else {}
    with pytest.raises(exceptions.BadRequest, match="size"):
        create(client, paused, {kind: {**target, "body": b"x" * 1_048_569}})

    create(client, paused, {kind: {**target, "body": b"x" * 1_040_000}})


def test_a_schedule_is_kept_up_to_720_hours_ahead(client, paused) -> None:
    soon = datetime.now(UTC) + timedelta(hours=719)
    late = datetime.now(UTC) + timedelta(hours=721)

    task = create(client, paused, http(schedule_time=soon))

    assert abs(task.schedule_time - soon) < timedelta(milliseconds=1)
    with pytest.raises(exceptions.BadRequest, match="too far in the future"):
        create(client, paused, http(schedule_time=late))


def test_a_schedule_in_the_past_becomes_now(client, paused) -> None:
    past = datetime.now(UTC) - timedelta(days=1)

    task = create(client, paused, http(schedule_time=past))

    assert task.schedule_time > datetime.now(UTC) - timedelta(minutes=5)


def test_output_only_fields_are_ours(client, paused) -> None:
    task = create(client, paused, http(dispatch_count=9, response_count=9))

    assert (task.dispatch_count, task.response_count) == (0, 0)


def test_a_purge_deletes_the_tasks(client, paused) -> None:
    create(client, paused, http())

    client.purge_queue(name=paused, timeout=TIMEOUT)

    assert list(client.list_tasks(parent=paused, timeout=TIMEOUT)) == []
    assert client.get_queue(name=paused, timeout=TIMEOUT).purge_time


def test_a_call_with_too_long_a_deadline_is_refused(way, client, paused) -> None:
    if way.startswith("rest"):
        pytest.skip("Over REST the deadline of a call stays with the client.")
    with pytest.raises(exceptions.BadRequest, match="30s in the future"):
        client.create_task(parent=paused, task=http(), timeout=60)


# Batches.


def test_a_batch_creates_what_it_can(client, paused) -> None:
    tasks = [http(), {"http_request": {"url": "x"}}, http(name=f"{paused}/tasks/a")]
    requests = [{"parent": paused, "task": task} for task in tasks]

    operation = client.batch_create_tasks(
        request={"parent": paused, "requests": requests}, timeout=TIMEOUT
    )

    assert len(operation.result(timeout=TIMEOUT).tasks) == 2
    assert operation.metadata.state.name == "PARTIALLY_SUCCEEDED"
    assert list(operation.metadata.failed_requests) == [1]
    assert operation.metadata.failed_requests[1].code == 3
    assert len(list(client.list_tasks(parent=paused, timeout=TIMEOUT))) == 2


def test_a_batch_with_the_same_id_is_made_once(client, paused) -> None:
    request = {
        "parent": paused,
        "requests": [{"parent": paused, "task": http()}],
        "request_id": uuid.uuid4().hex,
    }

    first = client.batch_create_tasks(request=request, timeout=TIMEOUT)
    again = client.batch_create_tasks(request=request, timeout=TIMEOUT)

    assert first.operation.name == again.operation.name
    assert len(list(client.list_tasks(parent=paused, timeout=TIMEOUT))) == 1


def test_a_batch_of_which_nothing_succeeds_is_aborted(client, paused) -> None:
    request = {"parent": paused, "names": [f"{paused}/tasks/never"]}

    operation = client.batch_delete_tasks(request=request, timeout=TIMEOUT)

    with pytest.raises(exceptions.Aborted, match="None of the requests succeeded"):
        operation.result(timeout=TIMEOUT)
    assert operation.metadata.failed_requests[0].code == 5


def test_a_batch_deletes(client, paused) -> None:
    names = [create(client, paused, http()).name for _ in range(3)]
    request = {"parent": paused, "names": names[:2]}

    client.batch_delete_tasks(request=request, timeout=TIMEOUT).result(timeout=TIMEOUT)

    left = [task.name for task in client.list_tasks(parent=paused, timeout=TIMEOUT)]
    assert left == names[2:]


@pytest.mark.parametrize(("count", "parent"), [(0, ""), (101, ""), (1, "x")])
def test_a_bad_batch_is_refused(client, paused, count, parent) -> None:
    requests = [{"parent": paused + parent, "task": http()}] * count
    with pytest.raises(exceptions.BadRequest):
        client.batch_create_tasks(
            request={"parent": paused, "requests": requests}, timeout=TIMEOUT
        )


def test_a_finished_batch_can_be_looked_up(client, paused) -> None:
    request = {"parent": paused, "requests": [{"parent": paused, "task": http()}]}
    name = client.batch_create_tasks(request=request, timeout=TIMEOUT).operation.name

    assert client.get_operation(request={"name": name}, timeout=TIMEOUT).done


# Dispatches.


@dispatching
def test_the_headers_of_an_http_task_are_those_recorded(client, queue, sink) -> None:
    recorded = DISPATCHES["dispatch/http"]
    name = create(client, queue, http(sink.answer("/h", *recorded.statuses))).name

    requests = sink.wait_for(len(recorded.statuses))

    facts = [request.facts("cloudtasks") for request in requests]
    for attempt, seen in zip(recorded.attempts, facts, strict=True):
        assert float(seen.pop("tasketa")) <= time.time()
        assert seen == {
            "queuename": queue.rpartition("/")[2],
            "taskname": name.rpartition("/")[2],
            **attempt,
        }
    assert {each.headers["User-Agent"] for each in requests} == {recorded.agent}


@dispatching
def test_a_successful_task_is_gone(client, queue, sink) -> None:
    name = create(client, queue, http(sink.url + "/ok")).name
    sink.wait_for(1)

    wait_until(lambda: is_gone(client, name), "The task is gone")


@dispatching
def test_a_task_waits_for_its_schedule(client, queue, sink) -> None:
    later = datetime.now(UTC) + timedelta(seconds=0.5)
    create(client, queue, http(sink.url + "/later", schedule_time=later))
    create(client, queue, http(sink.url + "/now"))

    came = {request.path: request.at for request in sink.wait_for(2)}

    assert came["/later"] >= later.timestamp() - 0.01


@dispatching
def test_run_task_runs_a_task_of_a_paused_queue(client, paused, sink) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    name = create(client, paused, http(sink.url + "/run", schedule_time=later)).name

    task = client.run_task(name=name, timeout=TIMEOUT)

    sink.wait_for(1)
    assert task.name == name
    wait_until(lambda: is_gone(client, name), "The task is gone")


@dispatching
def test_an_exhausted_task_is_deleted(client, queue, sink) -> None:
    mask = field_mask_pb2.FieldMask(paths=["retry_config.max_attempts"])
    config = {"name": queue, "retry_config": {"max_attempts": 3}}
    client.update_queue(queue=config, update_mask=mask, timeout=TIMEOUT)

    name = create(client, queue, http(sink.answer("/bad", 500))).name

    sink.wait_for(3)
    wait_until(lambda: is_gone(client, name), "The task is gone")
    assert len(sink.requests) == 3


@dispatching
def test_a_tasks_own_retry_config_counts(client, queue, sink) -> None:
    task = http(sink.answer("/bad", 500), retry_config={"max_attempts": 2})

    name = create(client, queue, task).name

    sink.wait_for(2)
    wait_until(lambda: is_gone(client, name), "The task is gone")
    assert len(sink.requests) == 2


@dispatching
def test_the_last_attempt_is_shown(client, queue, sink) -> None:
    task = http(
        sink.answer("/bad", 404), retry_config={"min_backoff": _duration("60s")}
    )
    task["retry_config"]["max_backoff"] = _duration("60s")
    name = create(client, queue, task).name
    sink.wait_for(1)

    def attempted() -> bool:
        return client.get_task(name=name, timeout=TIMEOUT).response_count == 1

    wait_until(attempted, "The task was attempted")
    shown = client.get_task(name=name, timeout=TIMEOUT)
    assert shown.dispatch_count == 1
    assert shown.last_attempt.response_status.code == 5
    assert "404" in shown.last_attempt.response_status.message
    assert shown.first_attempt.dispatch_time == shown.last_attempt.dispatch_time
    wait = shown.schedule_time - shown.last_attempt.response_time
    assert wait == pytest.approx(timedelta(seconds=60), abs=timedelta(milliseconds=10))


@dispatching
def test_redirects_are_not_followed(client, queue, sink) -> None:
    create(client, queue, http(sink.answer("/moved", 302, 200)))

    requests = sink.wait_for(2)

    assert {request.path for request in requests} == {"/moved"}


@dispatching
def test_concurrency_is_kept(client, queue, sink) -> None:
    config = {"name": queue, "rate_limits": {"max_concurrent_dispatches": 3}}
    client.update_queue(queue=config, timeout=TIMEOUT)
    sink.hold.clear()
    for _ in range(9):
        create(client, queue, http(sink.url))

    sink.wait_for(3)
    time.sleep(0.2)  # time in which a fourth one would come
    sink.hold.set()
    sink.wait_for(9)

    assert sink.most_active == 3


@dispatching
def test_the_queues_http_target_goes_over_the_tasks(client, queue, sink: Sink) -> None:
    port = int(sink.url.rpartition(":")[2])
    target = {
        "uri_override": {
            "port": port,
            "path_override": {"path": "/queue"},
            "query_override": {"query_params": "a=1"},
        },
        "http_method": "PUT",
        "header_overrides": [{"header": {"key": "X-From", "value": "queue"}}],
    }
    client.update_queue(
        queue={"name": queue, "http_target": target},
        update_mask=field_mask_pb2.FieldMask(paths=["http_target"]),
        timeout=TIMEOUT,
    )
    create(client, queue, http("http://127.0.0.1:1/task", headers={"x-from": "task"}))

    (request,) = sink.wait_for(1)

    assert (request.method, request.path) == ("PUT", "/queue?a=1")
    assert request.headers["X-From"] == "queue"


def is_gone(client: tasks_v2.CloudTasksClient, name: str) -> bool:
    try:
        client.get_task(name=name, timeout=TIMEOUT)
    except exceptions.NotFound:
        return True
    return False
