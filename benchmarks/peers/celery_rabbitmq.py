"""Celery on RabbitMQ, set to acknowledge a message after its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import LATE, application, command
from benchmarks.site.work import work

TITLE = "Celery on RabbitMQ, acks late"
PACKAGES = ("celery", "amqp")
PROMISE = (
    "A worker's crash repeats the call. A crash between commit and `delay` loses it."
)
KEEPS = False
IN_TRANSACTION = False

# RabbitMQ answers that it has a message only when this is asked for.
confirms = {"broker_transport_options": {"confirm_publish": True}}
app = application("rabbitmq", settings.RABBITMQ, **LATE, **confirms)
run = app.task(work, name="work")


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.delay(number, milliseconds)


def prepare() -> None:
    app.control.purge()


def workers() -> list[list[str]]:
    return [command("celery_rabbitmq")]
