"""RQ on Redis: its worker forks a process for each call."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import redis
import rq
from django.conf import settings

from benchmarks.site.work import work

TITLE = "RQ on Redis"
PACKAGES = ("rq", "redis")
PROMISE = (
    "With `Retry`, a worker's crash repeats the call. A crash between commit and"
    " `enqueue` loses it."
)
KEEPS = False
IN_TRANSACTION = False

queue = rq.Queue("bench", connection=redis.Redis.from_url(settings.REDIS))
RETRY = rq.Retry(max=3)  # without it, a crash of the worker fails the call


def enqueue(number: int, milliseconds: int = 0) -> None:
    queue.enqueue(work, number, milliseconds, retry=RETRY, result_ttl=0)


def enqueue_many(numbers: Iterable[int]) -> None:
    options = {"retry": RETRY, "result_ttl": 0}
    prepare = rq.Queue.prepare_data
    queue.enqueue_many([prepare(work, args=(n,), **options) for n in numbers])


def prepare() -> None:
    """Remove the jobs, and the registries of workers that were ended."""
    if keys := list(queue.connection.scan_iter("rq:*", count=1000)):
        queue.connection.delete(*keys)


def workers() -> list[list[str]]:
    command = [sys.executable, "-m", "rq.cli", "worker", "--quiet"]
    return [[*command, f"--url={settings.REDIS}", "bench"]] * 2
