"""Celery on Redis as it comes: a message is acknowledged before its task."""

from __future__ import annotations

from django.conf import settings

from benchmarks.peers.celery_redis import Peer

TITLE = "Celery on Redis, defaults"
PACKAGES = ("celery", "redis")
PROMISE = "A crash of the worker loses the calls that it runs."
KEEPS = False
IN_TRANSACTION = False

_peer = Peer("celery_redis_early", settings.REDIS)
app, enqueue, prepare, workers = _peer.app, _peer.enqueue, _peer.prepare, _peer.workers
