"""Celery on RabbitMQ as it comes: a message is acknowledged before its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import application, command
from benchmarks.site.work import work

TITLE = "Celery on RabbitMQ, defaults"
PACKAGES = ("celery", "amqp")
PROMISE = "A crash of the worker, or of RabbitMQ before it has a message, loses calls."
KEEPS = False
IN_TRANSACTION = False

app = application("rabbitmq_early", settings.RABBITMQ)
run = app.task(work, name="work")


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.delay(number, milliseconds)


def prepare() -> None:
    app.control.purge()


def workers() -> list[list[str]]:
    return [command("celery_rabbitmq_early")]
