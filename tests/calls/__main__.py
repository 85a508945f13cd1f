"""Prints the counts as JSON; with --write, they are accepted."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

import django
from django.conf import settings

from cloudtask import clock, failpoints
from tests.calls import Counts, accept

TIMES = 100


class StillClock(clock.Clock):
    """Its stopwatches stand still: the speed of the machine decides nothing."""

    def stopwatch(self) -> Callable[[], float]:
        return lambda: 0.0


def set_up() -> None:
    settings.configure(
        SECRET_KEY="of the journeys",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.calls.urls",
        USE_TZ=True,
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        },
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "cloudtask",
            "tests.calls",
        ],
        CLOUDTASK={
            "PROJECT": "p",
            "LOCATION": "l",
            "TARGET": {
                "BACKEND": "cloudtask.targets.AppEngineTarget",
                "ON_APP_ENGINE": True,
            },
            "TRANSPORT": {
                "BACKEND": "cloudtask.transports.memory.MemoryTransport",
            },
        },
    )
    django.setup()
    logging.disable(logging.CRITICAL)
    clock.use(StillClock())


def count(journey: Callable[[], None]) -> int:
    """The calls of `journey`, of functions in Python and in C, once it has run."""
    journey()
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()
    sys.setprofile(note)
    try:
        journey()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def counts() -> Counts:
    from django.contrib.auth.models import Group
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command
    from django.db import transaction
    from django.db.models.functions import Now

    from cloudtask import call
    from cloudtask.models import OutboxMessage
    from cloudtask.sending import relay
    from cloudtask.testing import run_queued
    from cloudtask.transports import memory
    from tests.calls.tasks import nothing, visit

    call_command("migrate", verbosity=0)
    Group.objects.bulk_create(Group(name=str(number)) for number in range(1000))
    nothing.defer(7, template="rich")
    waiting = memory.queue().pop()
    assert waiting is not None
    application = WSGIHandler()

    def defer() -> None:
        for number in range(TIMES):
            nothing.defer(number, template="rich")

    def defer_and_run() -> None:
        memory.queue().clear()
        defer()
        assert len(run_queued(limit=TIMES)) == TIMES

    def defer_in_transactions() -> None:
        for number in range(TIMES):
            with transaction.atomic():
                nothing.defer(number, template="rich")

    def defer_many_in_a_transaction() -> None:
        with transaction.atomic():
            nothing.defer_many(call(number) for number in range(TIMES))

    def deliver() -> None:
        for _ in range(TIMES):
            answer = application(_request(waiting.body), _check_status)
            b"".join(answer)
            answer.close()

    def relay_rows() -> None:
        with failpoints.at("outbox.committed", failpoints.crash):
            try:
                defer_many_in_a_transaction()
            except failpoints.Crashed:
                OutboxMessage.objects.update(due_at=Now())
        assert relay.relay().sent == TIMES

    def walk() -> None:
        memory.queue().clear()
        visit.iterate(Group.objects.all(), shards=1)
        run_queued()

    journeys = (
        *(defer, defer_and_run, defer_in_transactions, defer_many_in_a_transaction),
        *(deliver, relay_rows, walk),
    )
    return {one.__name__.replace("_", " "): count(one) for one in journeys}


def _request(body: bytes) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/_cloudtask/run/tests.calls.tasks.nothing",
        "QUERY_STRING": "",
        "SERVER_NAME": "app.example",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_X_APPENGINE_QUEUENAME": "default",
        "wsgi.url_scheme": "https",
        "wsgi.input": BytesIO(body),
    }


def _check_status(status: str, headers: object) -> None:
    assert status == "200 OK", status


if __name__ == "__main__":
    set_up()
    found = counts()
    print(json.dumps(found, indent=2))
    if "--write" in sys.argv:
        accept(found)
