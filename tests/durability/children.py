"""The code of the processes that tests start and kill; each process imports it.

They are forked from one process that has imported all this, so that a test can afford
many of them.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
if not apps.ready:
    django.setup()

from google.cloud import tasks_v2  # noqa: F401  imported once for all

from cloudtask import failpoints
from cloudtask.sending.relay import relay_all
from cloudtask.transports import cloud  # noqa: F401
from tests.durability import tasks
from tests.support import clock

HOUR = 3600.0


def main(
    setup: dict[str, Any],
    point: str | None,
    verb: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Do `verb`, and be killed at the failpoint `point`."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  what dies here says much
    os.environ["CLOUD_TASKS_EMULATOR_HOST"] = setup["emulator"]
    settings.CLOUDTASK = setup["cloudtask"]
    for alias, values in setup["databases"].items():
        connections.settings[alias].update(values)
    if point is not None:
        os.environ["CLOUDTASK_FAILPOINT"] = f"{point}=kill"
        failpoints.read_environment()
    VERBS[verb](*args, **kwargs)


def defer(task: str, name: str, *, is_large: bool) -> None:
    """Write the cause and defer its effect, in one transaction."""
    with transaction.atomic():
        tasks.add(f"cause of {name}")
        _defer(task, name, is_large)


def defer_and_roll_back(task: str, name: str, *, is_large: bool) -> None:
    with transaction.atomic():
        tasks.add(f"cause of {name}")
        _defer(task, name, is_large)
        transaction.set_rollback(True)


def defer_at_once(task: str, name: str, *, is_large: bool) -> None:
    tasks.add(f"cause of {name}")
    _defer(task, name, is_large)


def defer_many_times(task: str, count: int) -> None:
    """Defer in so many transactions, one after the other."""
    for number in range(count):
        with transaction.atomic():
            getattr(tasks, task).defer(str(number))


def _defer(task: str, name: str, is_large: bool) -> None:
    ballast = random.Random(1).randbytes(30_000) if is_large else None
    getattr(tasks, task).defer(name, ballast)


def relay(hours: float) -> None:
    clock.move(hours * HOUR)
    relay_all()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_port = True  # the test has bound the port, so that nobody else takes it


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """The test says what went wrong."""


def serve(port: int, ready: Connection) -> None:
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
    with make_server("127.0.0.1", port, application, _Server, _Quiet) as server:
        ready.send(True)
        server.serve_forever()


VERBS: dict[str, Callable[..., None]] = {
    "defer": defer,
    "defer_and_roll_back": defer_and_roll_back,
    "defer_at_once": defer_at_once,
    "defer_many_times": defer_many_times,
    "relay": relay,
    "serve": serve,
}
