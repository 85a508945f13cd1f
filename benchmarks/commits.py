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
from benchmarks.harness import Effort
from benchmarks.project import cloudtask_settings
from benchmarks.results import COUNT, Figure, Outcome, Verdict
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


def outcome(effort: Effort) -> Outcome:
    """Statements and requests of each size; they are counted, not timed."""
    call_command("migrate", verbosity=0)
    figures, most = [], (0, 0)
    for count in COUNTS:
        counted = _counted(count)
        most = (max(most[0], counted[0]), max(most[1], counted[1]))
        for measure, number in zip(("statements", "requests"), counted, strict=True):
            case = f"{count} calls"
            figures.append(
                Figure(case=case, measure=measure, unit="in all", samples=[number])
            )
    limits = zip(("statements", "requests"), most, MOST, strict=True)
    return Outcome(
        name="commits",
        title="The commit of a transaction with calls of defer(), SQLite",
        baseline=f"{COUNTS[0]} calls",
        about=(
            "Statements and requests after the writes of the transaction, without its"
            " COMMIT. They are counted, so they are the same on every machine."
        ),
        figures=figures,
        verdicts=[
            Verdict(
                what=f"{measure} of a commit",
                figure=found,
                limit=limit,
                unit="",
                reason=COUNT,
            )
            for measure, found, limit in limits
        ],
    )


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
