from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2

from cloudtask.emulator import Emulator
from tests.emulator.sink import Sink
from tests.support.waiting import PATIENCE

QUEUE = "projects/p/locations/l/queues/default"
FAST = {"default": {"backoff": "0.001s..0.01s"}}


def parts_of(version: str) -> tuple[Any, Any]:
    """The client's package for a version of the API, and its transports."""
    package = f"google.cloud.tasks_{version}"
    transports = f"{package}.services.cloud_tasks.transports"
    return import_module(package), import_module(transports)


@contextmanager
def client_of(address: str, version: str = "v2") -> Iterator[tasks_v2.CloudTasksClient]:
    """The real client over gRPC, on an insecure channel that is closed at the end."""
    package, transports = parts_of(version)
    with grpc.insecure_channel(address) as channel:
        transport = transports.CloudTasksGrpcTransport(channel=channel)
        yield package.CloudTasksClient(transport=transport)


@contextmanager
def rest_client_of(
    http_address: str, version: str = "v2"
) -> Iterator[tasks_v2.CloudTasksClient]:
    """The real client over REST."""
    package, transports = parts_of(version)
    scheme, _, host = http_address.partition("://")
    transport = transports.CloudTasksRestTransport(
        host=host, credentials=AnonymousCredentials(), url_scheme=scheme
    )
    with package.CloudTasksClient(transport=transport) as client:
        yield client


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink().running() as sink:
        yield sink


class _Patient(Emulator):
    """Waits as long as the tests do, so that none fails on a busy machine."""

    def wait_idle(self, timeout: float = PATIENCE, *, scheduled: bool = False) -> None:
        super().wait_idle(timeout, scheduled=scheduled)


@pytest.fixture
def start() -> Iterator[Callable[..., Emulator]]:
    """Start an emulator with options; stopped at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(_Patient(**options))


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
