from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksGrpcTransport,
)

from cloudtask.emulator import Emulator
from tests.emulator.sink import Sink

QUEUE = "projects/p/locations/l/queues/default"
FAST = {"default": {"backoff": "0.001s..0.01s"}}


@contextmanager
def client_of(address: str) -> Iterator[tasks_v2.CloudTasksClient]:
    """The real client, on an insecure channel that is closed at the end."""
    with grpc.insecure_channel(address) as channel:
        transport = CloudTasksGrpcTransport(channel=channel)
        yield tasks_v2.CloudTasksClient(transport=transport)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink().running() as sink:
        yield sink


@pytest.fixture
def start() -> Iterator[Callable[..., Emulator]]:
    """Start an emulator with options; stopped at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Emulator(**options))


@pytest.fixture
def connect() -> Iterator[Callable[[Emulator], tasks_v2.CloudTasksClient]]:
    """The real client for an emulator."""
    with ExitStack() as stack:
        yield lambda emulator: stack.enter_context(client_of(emulator.address))


@pytest.fixture
def emulator(start: Callable[..., Emulator], sink: Sink) -> Emulator:
    """One whose queue retries at once."""
    return start(target=sink.url, queues=FAST)


@pytest.fixture
def client(
    connect: Callable[[Emulator], tasks_v2.CloudTasksClient], emulator: Emulator
) -> tasks_v2.CloudTasksClient:
    return connect(emulator)
