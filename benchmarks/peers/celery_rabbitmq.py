"""Celery on RabbitMQ, set to acknowledge a message after its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import LATE, Peer

TITLE = "Celery on RabbitMQ, acks late"
PACKAGES = ("celery", "amqp")
PROMISE = (
    "A worker's crash repeats the call. A crash between commit and `delay` loses it."
)
KEEPS = False
IN_TRANSACTION = False

# RabbitMQ answers that it has a message only when this is asked for.
confirms = {"broker_transport_options": {"confirm_publish": True}}
_peer = Peer("celery_rabbitmq", settings.RABBITMQ, **LATE, **confirms)
app, enqueue, prepare, workers = _peer.app, _peer.enqueue, _peer.prepare, _peer.workers
