"""Dramatiq on Redis: it acknowledges a message after its task."""

from __future__ import annotations

import sys
from typing import Any

import dramatiq
from django.conf import settings
from dramatiq.brokers.redis import RedisBroker

from benchmarks.site.work import work

TITLE = "Dramatiq on Redis"
PACKAGES = ("dramatiq", "redis")
PROMISE = (
    "A worker's crash repeats the call. A crash between commit and `send` loses it."
)
KEEPS = False
IN_TRANSACTION = False

broker = RedisBroker(url=settings.REDIS, namespace="bench_dramatiq")
dramatiq.set_broker(broker)
run: Any = dramatiq.actor(work, broker=broker)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.send(number, milliseconds)


def prepare() -> None:
    broker.flush_all()


def workers() -> list[list[str]]:
    # One thread, as every peer here runs one call at a time in each of two processes,
    # with the prefetch of the usual eight.
    command = ["env", "dramatiq_queue_prefetch=16", sys.executable, "-m", "dramatiq"]
    options = ["--processes=2", "--threads=1"]
    return [[*command, "benchmarks.peers.dramatiq_redis", *options]]
