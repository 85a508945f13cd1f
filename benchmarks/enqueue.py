"""Measures `defer()` with the whole wire format and without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.test import override_settings

from benchmarks import tasks
from benchmarks.harness import OURS, Budget, Case, Effort, Results, Scenario
from benchmarks.project import cloudtask_settings
from cloudtask import envelope
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Message
from cloudtask.transports import cloud

CALLS = 1000
TO_THE_RPC = "cloudtask, with the request for Cloud Tasks"
LARGE = "x" * 10_000
SIGNED = "cloudtask encodes and signs the envelope; the peer keeps a message in memory."
LIMITS = {"django.tasks (Dummy)": 0.3, "Dramatiq (stub)": 1.3}
PEERS = {
    "Celery (memory)": tasks.celery_task.delay,
    "Dramatiq (stub)": tasks.dramatiq_task.send,
    "Huey (memory)": tasks.huey_memory_task,
    "django.tasks (Dummy)": tasks.dummy_task.enqueue,
}


class StubTransport:
    """Creates the envelope and drops it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        pass

    def send(self, message: Message) -> None:
        envelope.seal(message)

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        return [self.send(message) for message in messages]


class StubClient:
    """Replaces Google's client, its transport and channel; each request is dropped."""

    @property
    def transport(self) -> StubClient:
        return self

    @property
    def grpc_channel(self) -> StubClient:
        return self

    def unary_unary(self, method: str, **options: object) -> Callable[..., None]:
        return self.dropped

    def dropped(self, request: object, **options: object) -> None:
        pass


def scenario(effort: Effort) -> Scenario:
    cases = [
        _case(OURS, tasks.ours_small.defer),
        _case("cloudtask, not small", tasks.ours.defer),
        _case(TO_THE_RPC, tasks.ours_small.defer, _to_the_rpc),
        *(_case(name, enqueue, _emptied) for name, enqueue in PEERS.items()),
        _case(f"{OURS}, 10 KB", tasks.ours_small.defer, text=LARGE),
        *(
            _case(f"{name}, 10 KB", PEERS[name], _emptied, text=LARGE)
            for name in ("Celery (memory)", "Dramatiq (stub)")
        ),
    ]
    return Scenario(
        title="Enqueue one no-op call, transport stubbed",
        cases=cases,
        about=(
            "The whole wire format is made, and nothing is sent. cloudtask signs each"
            " envelope; the others don't. django.tasks' Dummy keeps results in memory."
        ),
        budgets=[
            Budget(f"defer(), small, over {peer}", _over(peer), limit, "x", SIGNED)
            for peer, limit in LIMITS.items()
        ],
    )


def _over(peer: str) -> Callable[[Results], float]:
    return lambda results: results[OURS].best / results[peer].best


def _case(
    name: str, enqueue: Callable[..., object], *around: Any, text: str = "rich"
) -> Case:
    def run() -> None:
        for number in range(CALLS):
            enqueue(number, template=text)

    return Case(name, run, CALLS, *around)


@contextmanager
def _to_the_rpc() -> Iterator[None]:
    """The real transport with a client that sends nothing."""
    transport = {"BACKEND": "cloudtask.transports.cloud.CloudTransport"}
    before = cloud.clients.get
    client = StubClient()
    cloud.clients.get = lambda: client  # type: ignore[method-assign,assignment,return-value]
    try:
        with override_settings(CLOUDTASK=cloudtask_settings(TRANSPORT=transport)):
            yield
    finally:
        cloud.clients.get = before  # type: ignore[method-assign]


@contextmanager
def _emptied() -> Iterator[None]:
    """Empty the queues that the other libraries keep in memory."""
    yield
    with tasks.celery_memory.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")
    tasks.dramatiq_broker.flush_all()
    tasks.huey_memory.flush()
    tasks.dummy_task.get_backend().clear()
