"""Measures the requests, the outbox and the records of execution that calls need.

Each function takes a number, and returns the seconds for each.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings
from google.cloud import tasks_v2

from benchmarks.peers.cloudtask_emulator import (
    IN_TRANSACTION,
    KEEPS,
    PACKAGES,
    PROMISE,
    QUEUE,
    backlog,
    emulator,
    enqueue,
    enqueue_many,
    hold,
    prepare,
)
from cloudtask import envelope, runtime, task
from cloudtask.message import Delivery
from cloudtask.models import Execution, OutboxMessage
from cloudtask.transports import memory
from cloudtask.transports.cloud import clients as connections

__all__ = [
    "IN_TRANSACTION",
    "KEEPS",
    "PACKAGES",
    "PROMISE",
    "enqueue",
    "hold",
    "prepare",
]

TITLE = "cloudtask"
MEMORY = {"BACKEND": "cloudtask.transports.memory.MemoryTransport"}
METHOD = "/google.cloud.tasks.v2.CloudTasks/CreateTask"


@task
def plain(number: int) -> None:
    pass


@task(atomic=True)
def atomic(number: int) -> None:
    pass


def workers() -> list[list[str]]:
    return [emulator()]


# The CPU of one request to a local server


def cpu_of_defer(count: int) -> float:
    return _cpu(lambda: enqueue(1), count)


def cpu_of_google(count: int) -> float:
    """Google's client, with the very request of `defer()`."""
    client, request = connections.get(), _request()
    fields = {
        "parent": QUEUE,
        "task": {
            "http_request": {
                "url": request.url,
                "http_method": request.http_method,
                "headers": dict(request.headers),
                "body": request.body,
                "oidc_token": {
                    "service_account_email": request.oidc_token.service_account_email,
                    "audience": request.oidc_token.audience,
                },
            }
        },
    }
    return _cpu(lambda: client.create_task(fields), count)


def cpu_of_stub(count: int) -> float:
    """The same bytes through gRPC alone: no retries, headers or translated errors."""
    client, request = connections.get(), _request()
    kinds = tasks_v2.CreateTaskRequest, tasks_v2.Task
    of_request, of_task = (kind.pb(kind()).__class__ for kind in kinds)
    stub = client.transport.grpc_channel.unary_unary(
        METHOD,
        request_serializer=of_request.SerializeToString,
        response_deserializer=of_task.FromString,
    )
    one = {"parent": QUEUE, "task": {"http_request": request}}
    whole = tasks_v2.CreateTaskRequest.pb(tasks_v2.CreateTaskRequest(one))
    metadata = [("x-goog-request-params", f"parent={QUEUE}")]
    return _cpu(lambda: stub(whole, timeout=10, metadata=metadata), count)


def _request() -> Any:
    """The HTTP request of a task that `defer()` has made."""
    enqueue(1)
    view = tasks_v2.Task.View.FULL
    asked = {"parent": QUEUE, "response_view": view, "page_size": 1}
    return next(iter(connections.get().list_tasks(asked))).http_request


def _cpu(call: Callable[[], object], count: int) -> float:
    call()
    started = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - started) / count


# The outbox


def many_in_a_transaction(count: int) -> float:
    """Measure the transaction, without its commit and the steps after it."""
    with transaction.atomic():
        started = time.perf_counter()
        enqueue_many(range(count))
        took = time.perf_counter() - started
        transaction.get_connection().run_on_commit.clear()
    OutboxMessage.objects.all().delete()
    return took / count


def sent_after_commit(count: int) -> float:
    """Measure the requests and the DELETE after the commit of so many calls."""
    with transaction.atomic():
        enqueue_many(range(count))
        started = time.perf_counter()
    return (time.perf_counter() - started) / count


def relayed(count: int) -> float:
    backlog(range(count))
    started = time.perf_counter()
    call_command("cloudtask_relay", seconds=600, stdout=io.StringIO())
    took = time.perf_counter() - started
    assert not OutboxMessage.objects.exists()
    return took / count


# Records of execution


def executed_plain(count: int) -> float:
    return _executed(plain, count)


def executed_atomic(count: int) -> float:
    return _executed(atomic, count)


def _executed(function: Any, count: int) -> float:
    with _messages(function, count) as messages:
        started = time.perf_counter()
        for message in messages:
            runtime.execute(message, Delivery())
        return (time.perf_counter() - started) / count


@contextmanager
def _messages(function: Any, count: int) -> Iterator[list[Any]]:
    from django.conf import settings

    changed = {**settings.CLOUDTASK, "TRANSPORT": MEMORY}
    with override_settings(CLOUDTASK=changed):
        for number in range(count):
            function.defer(number)
        bodies = [entry.body for entry in iter(memory.queue().pop, None)]
        yield [envelope.unseal(body, now=0.0) for body in bodies]


def pruned(count: int) -> float:
    """Records that are older than any delivery can be."""
    table = Execution._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
        cursor.execute(
            f"INSERT INTO {table} (id, task, ran_at, is_cancelled)"
            " SELECT md5(n::text), 'app.tasks.pay', now() - interval '60 days', false"
            " FROM generate_series(1, %s) n",
            [count],
        )
    started = time.perf_counter()
    call_command("cloudtask_prune", stdout=io.StringIO())
    took = time.perf_counter() - started
    assert not Execution.objects.exists()
    return took / count
