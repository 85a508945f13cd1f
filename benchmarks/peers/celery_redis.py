"""Celery on Redis, set to acknowledge a message after its task."""

from __future__ import annotations

import sys

import celery
from django.conf import settings

from benchmarks.site.work import work

TITLE = "Celery on Redis, acks late"
PACKAGES = ("celery", "redis")
PROMISE = (
    "A worker's crash repeats the call. A crash between commit and `delay` loses it."
)
KEEPS = False
IN_TRANSACTION = False
LATE = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
}


def application(name: str, broker: str, **changes: object) -> celery.Celery:
    app = celery.Celery(name, broker=broker, set_as_current=False)
    queue = f"bench_{name}"
    app.conf.update(task_ignore_result=True, task_default_queue=queue, **changes)
    return app


def command(module: str) -> list[str]:
    worker = [sys.executable, "-m", "celery", "-A", f"benchmarks.peers.{module}:app"]
    return [*worker, "worker", "--concurrency=2", "--loglevel=ERROR"]


app = application("redis", settings.REDIS, **LATE)
run = app.task(work, name="work")


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.delay(number, milliseconds)


def prepare() -> None:
    app.control.purge()


def workers() -> list[list[str]]:
    return [command("celery_redis")]
