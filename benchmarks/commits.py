"""Counts the statements and requests that the commit of deferred calls costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from django.core.management import call_command
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from benchmarks import tasks
from benchmarks.enqueue import StubClient
from benchmarks.project import cloudtask_settings
from cloudtask.transports import cloud

COUNTS = (1, 20, 200)
MOST = (8, 2)  # statements and requests, beside those of the transaction itself


class CountingClient(StubClient):
    """Replaces Google's client; it answers that all tasks were created."""

    def __init__(self) -> None:
        self.requests = 0

    def dropped(self, request: object, **options: object) -> None:
        self.requests += 1

    def batch_create_tasks(self, request: object, **options: object) -> object:
        self.requests += 1
        metadata = SimpleNamespace(failed_requests={})
        return SimpleNamespace(result=lambda timeout: None, metadata=metadata)


def show() -> bool:
    """Print the table; tell whether the budget is met."""
    call_command("migrate", verbosity=0)
    print("\nThe commit of a transaction with N calls of defer(), SQLite")
    print(f"  {'N':>6}{'statements':>14}{'requests':>12}")
    met = True
    for count in COUNTS:
        statements, requests = _counted(count)
        met = met and statements <= MOST[0] and requests <= MOST[1]
        print(f"  {count:>6}{statements:>14}{requests:>12}")
    mark = "met   " if met else "MISSED"
    print(f"  {mark} at most {MOST[0]} statements and {MOST[1]} requests")
    return met


def _counted(count: int) -> tuple[int, int]:
    """Statements and requests at the commit, without the COMMIT itself."""
    with _counting() as client, CaptureQueriesContext(connection) as captured:
        with transaction.atomic():
            for number in range(count):
                tasks.ours.defer(number)
            written = len(captured)
        after = len(captured) - written
    return after - 1, client.requests


@contextmanager
def _counting() -> Iterator[CountingClient]:
    """The real transport, with a client that counts."""
    transport = {"BACKEND": "cloudtask.transports.cloud.CloudTransport"}
    client, before = CountingClient(), cloud.clients.get
    cloud.clients.get = lambda: client  # type: ignore[method-assign,assignment,return-value]
    try:
        with override_settings(CLOUDTASK=cloudtask_settings(TRANSPORT=transport)):
            yield client
    finally:
        cloud.clients.get = before  # type: ignore[method-assign]
