"""A live ASGI server: a task whose caller hung up ends, and its record says why."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.asgi import get_asgi_application

from cloudtask import envelope, task
from cloudtask.models import FailedTask
from tests.durability.queues import LocalQueue
from tests.support import clock
from tests.support.waiting import PATIENCE, wait_until

uvicorn = pytest.importorskip("uvicorn")  # an environment may be older than it
pytestmark = pytest.mark.django_db(databases="__all__")

began = threading.Event()
hung_up = threading.Event()
ended: list[str] = []


def be_late() -> None:
    ended.append("ended")
    clock.move(700.0)
    raise ValueError("too slow")


@task(max_attempts=1)
def outlive() -> None:
    began.set()
    assert hung_up.wait(PATIENCE)
    be_late()


@task(max_attempts=1)
async def outlive_asynchronously() -> None:
    began.set()
    while not hung_up.is_set():
        await asyncio.sleep(0.01)
    be_late()


@pytest.fixture
def anew() -> Iterator[None]:
    began.clear()
    hung_up.clear()
    ended.clear()
    with clock.put_back():
        yield
        hung_up.set()


django = get_asgi_application()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Django, and a note when the server tells it that the caller has hung up."""

    async def noting() -> Any:
        event = await receive()
        if event["type"] == "http.disconnect":
            hung_up.set()
        return event

    await django(scope, noting, send)


@contextmanager
def served() -> Iterator[int]:
    """uvicorn in a thread; its port."""
    config = uvicorn.Config(
        application,
        port=0,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "uvicorn")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def hang_up_within(port: int, queue: LocalQueue) -> None:
    """Deliver what waits, as Cloud Tasks does, and hang up while it runs."""
    [message] = queue.messages
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    caller.request(
        "POST",
        f"/_cloudtask/run/{message.task}",
        envelope.seal(message),
        {
            "Content-Type": "application/octet-stream",
            "X-AppEngine-QueueName": message.queue,
            "X-AppEngine-TaskName": message.name,
            "X-AppEngine-TaskRetryCount": "0",
        },
    )
    assert began.wait(PATIENCE)
    caller.close()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("late", [outlive, outlive_asynchronously])
def test_a_task_that_outlives_its_deadline_says_so(world, late):
    late.defer()
    with served() as port:
        hang_up_within(port, world.queue)
        wait_until(FailedTask.objects.exists, "the record of the task")

    failed = FailedTask.objects.get()
    assert failed.attempts == 1
    assert "ValueError: too slow" in failed.error
    assert "Cloud Tasks hung up after 600 s" in failed.error
    assert ended == ["ended"]
