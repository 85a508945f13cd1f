"""The relay of the outbox, for runs in which a process died or the service failed."""

from __future__ import annotations

from datetime import timedelta

from django.db import connections

from cloudtask.clock import database_now
from cloudtask.failpoints import Crashed
from cloudtask.sending.relay import relay
from cloudtask.testruns.contents import usable_aliases
from cloudtask.transports.memory import MemoryQueue

TRIES = 10  # relays of an alias: some may crash, too


def sweep(queue: MemoryQueue) -> bool:
    """Send what an outbox still has, as the relay does some time later.

    Whether anything came of it.
    """
    queue.is_disturbed = False
    before = queue.pushed
    for alias in usable_aliases():
        if _has_outbox(alias):
            _relay(alias, queue)
    return queue.pushed > before


def _has_outbox(alias: str) -> bool:
    from cloudtask.models import OutboxMessage

    tables = connections[alias].introspection.table_names()
    return OutboxMessage._meta.db_table in tables


def _relay(alias: str, queue: MemoryQueue) -> None:
    from cloudtask.models import OutboxMessage

    rows = OutboxMessage.objects.using(alias)
    for _ in range(TRIES):
        waiting = rows.filter(state=OutboxMessage.State.WAITING)
        if not waiting.update(due_at=database_now() - timedelta(seconds=1)):
            return
        try:
            relay(alias)
        except Crashed:
            queue.is_disturbed = True
