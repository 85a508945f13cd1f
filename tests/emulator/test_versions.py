"""The beta versions: statistics, lifetimes, and fields with other names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2beta2, tasks_v2beta3
from google.protobuf import duration_pb2, field_mask_pb2

from cloudtask.emulator.queues.policy import LastMinute
from tests.emulator.asking import ask
from tests.emulator.conftest import QUEUE, client_of
from tests.support.waiting import PATIENCE, wait_until

PARENT = QUEUE.partition("/queues/")[0]
NEW = f"{PARENT}/queues/new"


@pytest.fixture
def beta3(emulator) -> Iterator[tasks_v2beta3.CloudTasksClient]:
    with client_of(emulator.address, "v2beta3") as client:
        yield client


@pytest.fixture
def beta2(emulator) -> Iterator[tasks_v2beta2.CloudTasksClient]:
    with client_of(emulator.address, "v2beta2") as client:
        yield client


@pytest.fixture(params=["v2beta3", "v2beta2"])
def beta(request, emulator) -> Iterator[tasks_v2beta3.CloudTasksClient]:
    with client_of(emulator.address, request.param) as client:
        yield client


def mask(*paths: str) -> field_mask_pb2.FieldMask:
    return field_mask_pb2.FieldMask(paths=paths)


def hours(count: int) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=count * 3600)


def test_statistics_are_shown_to_those_who_ask(emulator, client, beta, sink) -> None:
    for _ in range(3):
        client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})
    emulator.wait_idle()
    client.pause_queue(name=QUEUE)
    client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})

    plain = beta.get_queue(name=QUEUE)
    asked = beta.get_queue(request={"name": QUEUE, "read_mask": mask("stats")})
    request = {"parent": PARENT, "read_mask": mask("name", "stats")}
    (listed,) = beta.list_queues(request=request)

    assert not plain.stats
    assert plain.retry_config.max_attempts == 100
    assert not asked.name
    assert asked.stats.tasks_count == 1
    assert asked.stats.executed_last_minute_count == 3
    assert asked.stats.concurrent_dispatches_count == 0
    assert asked.stats.effective_execution_rate == 500
    assert asked.stats.oldest_estimated_arrival_time
    assert (listed.name, listed.stats) == (QUEUE, asked.stats)


def test_a_wrong_read_mask_is_refused(beta3) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="read mask"):
        beta3.get_queue(request={"name": QUEUE, "read_mask": mask("colour")})


def test_a_queue_may_say_how_long_names_stay_taken(emulator, beta) -> None:
    shown = beta.create_queue(
        parent=PARENT, queue={"name": NEW, "tombstone_ttl": hours(2)}
    )
    assert shown.tombstone_ttl.total_seconds() == 7200
    assert shown.task_ttl.days == 31

    changed = {"name": NEW, "tombstone_ttl": hours(3), "task_ttl": hours(24 * 20)}
    shown = beta.update_queue(queue=changed, update_mask=mask("tombstone_ttl"))

    assert shown.tombstone_ttl.total_seconds() == 3 * 3600
    assert shown.task_ttl.days == 31
    assert shown.retry_config.max_attempts == 100


@pytest.mark.parametrize(
    "queue",
    [{"tombstone_ttl": hours(24 * 10)}, {"task_ttl": hours(1)}],
)
def test_a_lifetime_out_of_range_is_refused(beta, queue) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="ttl must be between"):
        beta.create_queue(parent=PARENT, queue={"name": NEW, **queue})


def test_pull_queues_are_refused(beta2, beta3) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="Pull queues"):
        beta2.create_queue(parent=PARENT, queue={"name": NEW, "pull_target": {}})
    with pytest.raises(exceptions.InvalidArgument, match="Pull queues"):
        beta3.create_queue(parent=PARENT, queue={"name": NEW, "type_": 1})
    with pytest.raises(exceptions.MethodNotImplemented, match="LeaseTasks"):
        beta2.lease_tasks(parent=QUEUE, lease_duration=hours(1))


def test_v2beta2_has_names_of_its_own(emulator, beta2, sink) -> None:
    sink.answer("/a", 404, 200)
    beta2.pause_queue(name=QUEUE)
    request = {"relative_url": "/a", "payload": b"b"}
    name = beta2.create_task(
        request={"parent": QUEUE, "task": {"app_engine_http_request": request}}
    ).name
    beta2.run_task(name=name)
    sink.wait_for(1)
    wait_until(emulator.dispatches, "The attempt is over")

    full = {"name": name, "response_view": tasks_v2beta2.Task.View.FULL}
    task = beta2.get_task(request=full)

    assert task.app_engine_http_request.relative_url == "/a"
    assert task.app_engine_http_request.payload == b"b"
    assert task.status.attempt_dispatch_count == 1
    assert task.status.attempt_response_count == 1
    assert task.status.last_attempt_status.response_status.code == 5
    assert task.status.first_attempt_status.dispatch_time


def test_v2beta2_masks_are_translated(beta2, client) -> None:
    queue = {
        "name": QUEUE,
        "rate_limits": {
            "max_tasks_dispatched_per_second": 5,
            "max_concurrent_tasks": 3,
        },
        "retry_config": {"unlimited_attempts": True},
        "app_engine_http_target": {"app_engine_routing_override": {"service": "w"}},
    }
    paths = mask(
        "rate_limits.max_tasks_dispatched_per_second",
        "rate_limits.max_concurrent_tasks",
        "retry_config.unlimited_attempts",
        "app_engine_http_target.app_engine_routing_override",
    )

    shown = beta2.update_queue(queue=queue, update_mask=paths)

    assert shown.rate_limits.max_tasks_dispatched_per_second == 5
    assert shown.retry_config.unlimited_attempts
    routing = shown.app_engine_http_target.app_engine_routing_override
    assert routing.service == "w"
    same = client.get_queue(name=QUEUE)
    assert same.retry_config.max_attempts == -1
    assert same.rate_limits.max_concurrent_dispatches == 3
    assert same.app_engine_routing_override.service == "w"


def test_batches_of_v2beta3_have_messages_of_v2beta3(beta3) -> None:
    beta3.pause_queue(name=QUEUE)
    requests = [
        {"parent": QUEUE, "task": {"http_request": {"url": url}}}
        for url in ("https://h/", "ftp://h/")
    ]

    operation = beta3.batch_create_tasks(
        request={"parent": QUEUE, "requests": requests}
    )

    (task,) = operation.result(timeout=PATIENCE).tasks
    assert isinstance(task, tasks_v2beta3.Task)
    assert operation.metadata.failed_requests[1].code == 3


def test_statistics_come_over_rest_too(emulator) -> None:
    answer = ask(emulator, "GET", f"/v2beta3/{QUEUE}?readMask=stats,type")

    assert answer.json == {"stats": {"effectiveExecutionRate": 500.0}, "type": "PUSH"}


def test_a_minute_is_counted_in_seconds() -> None:
    minute = LastMinute()
    for second in range(120):
        minute.add(1000.0 + second)

    assert minute.total(1119.0) == 60
    assert minute.total(1149.5) == 30
    assert minute.total(1300.0) == 0
    minute.add(1200.0)  # a clock that was set back
    assert minute.total(1300.0) == 1
