"""Celery on RabbitMQ as it comes: a message is acknowledged before its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import Peer

TITLE = "Celery on RabbitMQ, defaults"
PACKAGES = ("celery", "amqp")
PROMISE = "A crash of the worker, or of RabbitMQ before it has a message, loses calls."
KEEPS = False
IN_TRANSACTION = False

_peer = Peer("celery_rabbitmq_early", settings.RABBITMQ)
app, enqueue, prepare, workers = _peer.app, _peer.enqueue, _peer.prepare, _peer.workers
