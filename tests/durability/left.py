"""Makes rows in the outbox as a killed process leaves them."""

from __future__ import annotations

from django.db import transaction

from cloudtask import call, failpoints
from cloudtask.failpoints import Crashed
from cloudtask.models import OutboxMessage
from tests.durability import tasks


def leave_behind(count: int = 1, **options) -> list[str]:
    """Defer `count` calls in a process that dies right after the commit; their ids."""
    with failpoints.at("outbox.committed", failpoints.crash):
        try:
            with transaction.atomic(using=options.get("database", "default")):
                calls = [call(str(n)) for n in range(count)]
                receipts = tasks.plain.using(**options).defer_many(calls)
        except Crashed:
            return [receipt.id for receipt in receipts]
    raise AssertionError("no crash")


def waiting(alias: str = "default") -> list[OutboxMessage]:
    return list(OutboxMessage.objects.using(alias).order_by("created_at", "key"))


def one(key: str) -> OutboxMessage:
    return OutboxMessage.objects.get(key=key)


def keys(world) -> list[str]:
    return sorted(message.key for message in world.queue.messages)
