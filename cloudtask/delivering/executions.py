"""Records that an atomic task ran, in the transaction of what it wrote."""

from __future__ import annotations

from datetime import timedelta

from django.db import IntegrityError, transaction

from cloudtask.clock import database_now
from cloudtask.message import Message
from cloudtask.stores import AlreadyDone
from cloudtask.stores.transactions import delete_by_key


def record(message: Message) -> None:
    """Write, in the open transaction, that `message` ran.

    A concurrent delivery waits here until that transaction ends. Raises AlreadyDone
    when another one has committed.
    """
    from cloudtask.models import Execution

    alias = message.options.database
    try:
        with transaction.atomic(using=alias):
            Execution.objects.using(alias).create(
                id=message.id, task=message.task, ran_at=database_now()
            )
    except IntegrityError as error:
        raise AlreadyDone(message.id) from error


def prune(alias: str, older_than: timedelta, limit: int = 10_000) -> int:
    """Forget executions that no message in flight can repeat; how many."""
    from cloudtask.models import Execution

    rows = Execution.objects.using(alias)
    old = rows.filter(ran_at__lt=database_now() - older_than)
    keys = list(old.values_list("pk", flat=True)[:limit])
    return delete_by_key(rows, keys)
