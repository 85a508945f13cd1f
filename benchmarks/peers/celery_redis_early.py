"""Celery on Redis as it comes: a message is acknowledged before its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import application, command
from benchmarks.site.work import work

TITLE = "Celery on Redis, defaults"
PACKAGES = ("celery", "redis")
PROMISE = "A crash of the worker loses the calls that it runs."
KEEPS = False
IN_TRANSACTION = False

app = application("redis_early", settings.REDIS)
run = app.task(work, name="work")


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.delay(number, milliseconds)


def prepare() -> None:
    app.control.purge()


def workers() -> list[list[str]]:
    return [command("celery_redis_early")]
