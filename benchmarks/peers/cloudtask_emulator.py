"""cloudtask with its emulator, and gunicorn with two workers of a thread each.

Workers with threads keep connections. The tutorials of cloudtask have such ones, as do
Google's for Cloud Run.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable

from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from benchmarks.site.work import work
from cloudtask import call, task
from cloudtask.models import OutboxMessage

TITLE = "cloudtask, its emulator"
PACKAGES = ("gunicorn",)
PROMISE = (
    "A call in a transaction is committed with it, and is repeated until it succeeds."
)
KEEPS = True
PORTS = ("EMULATOR", "SITE")
IN_TRANSACTION = True
QUEUE = "projects/p/locations/l/queues/default"


@task
def run(number: int, milliseconds: int = 0) -> None:
    work(number, milliseconds)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.defer(number, milliseconds)


def enqueue_many(numbers: Iterable[int]) -> None:
    run.defer_many([call(number) for number in numbers])


def hold() -> None:
    """Let the emulator keep what it gets."""
    call_command("cloudtask_queues", "pause", "default", verbosity=0)


def backlog(numbers: Iterable[int]) -> None:
    """Rows in the outbox, as a crash after the commit leaves them."""
    with transaction.atomic():
        enqueue_many(numbers)
        transaction.get_connection().run_on_commit.clear()
    OutboxMessage.objects.update(due_at=timezone.now())


def relay() -> None:
    call_command("cloudtask_relay", seconds=600, stdout=io.StringIO())
    assert not OutboxMessage.objects.exists()


def prepare() -> None:
    pass


def workers() -> list[list[str]]:
    return [emulator(), site()]


def emulator() -> list[str]:
    command = [sys.executable, "-m", "cloudtask.emulator", "--quiet"]
    command += [f"--port={os.environ['BENCH_EMULATOR_PORT']}"]
    command += [f"--http-port={os.environ['BENCH_EMULATOR_HTTP_PORT']}"]
    # Google's queues stop at 500 a second. Without that limit, the code is measured.
    return [*command, f"--queue={QUEUE}", "--no-rate-limits"]


def site(workers: str = "gthread") -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "benchmarks.site.wsgi:application"]
    command += [f"--bind=127.0.0.1:{os.environ['BENCH_SITE_PORT']}", "--preload"]
    return [
        *command,
        "--workers=2",
        f"--worker-class={workers}",
        "--threads=1",
        "--timeout=600",
        "--backlog=4096",
        "--no-control-socket",
    ]
