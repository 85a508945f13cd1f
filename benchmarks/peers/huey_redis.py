"""Huey on Redis: a worker takes a message out before it runs the task."""

from __future__ import annotations

import sys

import huey as library
from django.conf import settings

from benchmarks.site.work import work

TITLE = "Huey on Redis"
PACKAGES = ("huey", "redis")
PROMISE = "A crash of the worker loses the calls that it runs."
KEEPS = False
IN_TRANSACTION = False

huey = library.RedisHuey("bench", url=settings.REDIS, results=False)
run = huey.task(name="work")(work)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run(number, milliseconds)


def prepare() -> None:
    huey.flush()


def workers() -> list[list[str]]:
    command = [sys.executable, "-m", "huey.bin.huey_consumer", "--quiet"]
    module = "benchmarks.peers.huey_redis.huey"
    return [[*command, module, "--workers=2", "--worker-type=process"]]
