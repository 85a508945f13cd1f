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


class Peer:
    """The functions of a peer that is Celery; its worker imports `module`."""

    def __init__(self, module: str, broker: str, **changes: object) -> None:
        self.module = module
        name = module.removeprefix("celery_")
        self.app = application(name, broker, **changes)
        self.task = self.app.task(work, name="work")

    def enqueue(self, number: int, milliseconds: int = 0) -> None:
        self.task.delay(number, milliseconds)

    def prepare(self) -> None:
        self.app.control.purge()

    def workers(self) -> list[list[str]]:
        return [command(self.module)]


_peer = Peer("celery_redis", settings.REDIS, **LATE)
app, enqueue, prepare, workers = _peer.app, _peer.enqueue, _peer.prepare, _peer.workers
