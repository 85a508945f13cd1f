"""Relays the outbox in test runs in which a process crashed or the service failed."""

from __future__ import annotations

from datetime import timedelta

from django.db import connections

from cloudtask.clock import database_now
from cloudtask.failpoints import Crashed
from cloudtask.sending.relay import relay
from cloudtask.testruns import commits
from cloudtask.testruns.contents import usable_aliases
from cloudtask.transports.memory import MemoryQueue

NEVER = timedelta(days=365)
TRIES = 10  # relays of an alias: some may crash, too


def sweep(queue: MemoryQueue) -> bool:
    """Send the calls that crashes and failures have left in an outbox.

    The relay does so some time later. Calls of setUpTestData are left where they are.
    Returns whether anything was sent.
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
    waiting = rows.filter(state=OutboxMessage.State.WAITING)
    if left_alone := commits.keys_of_no_test():
        # Excluding them is not enough: in virtual time they may be due.
        waiting.filter(key__in=left_alone).update(due_at=database_now() + NEVER)
    for _ in range(TRIES):
        ours = waiting.exclude(key__in=left_alone)
        if not ours.update(due_at=database_now() - timedelta(seconds=1)):
            return
        try:
            relay(alias)
        except Crashed:
            queue.is_disturbed = True
