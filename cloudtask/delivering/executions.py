"""Records that an atomic task ran, in the transaction of what it wrote."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Q

from cloudtask import quotas
from cloudtask.clock import database_now
from cloudtask.message import Message
from cloudtask.stores import AlreadyDone, CallCancelled
from cloudtask.stores.transactions import delete_by_key, inserted

HORIZON = timedelta(seconds=quotas.HORIZON)


def record(message: Message) -> None:
    """Write, in the open transaction, that `message` ran.

    A concurrent delivery waits here until that transaction ends. Raises AlreadyDone
    when another one has committed, CallCancelled when the call was cancelled.
    """
    from cloudtask.models import Execution

    alias, key = message.options.database, message.id
    row = Execution(id=key, task=message.task, ran_at=database_now())
    if not inserted(row, alias):
        raise CallCancelled(key) if is_cancelled(key, alias) else AlreadyDone(key)


def cancel(key: str, alias: str) -> bool:
    """Write, in the open transaction, that an atomic call must not run.

    Waits for an attempt that runs. Returns False if the call has committed before.
    """
    from cloudtask.models import Execution

    rows = Execution.objects.using(alias)
    row = Execution(id=key, task="", ran_at=database_now(), is_cancelled=True)
    if inserted(row, alias):
        return True
    # A locking read sees what others have committed, whatever the isolation.
    found = rows.only("is_cancelled").select_for_update().get(pk=key)
    return found.is_cancelled is True


def is_cancelled(key: str, alias: str) -> bool:
    return state_of(key, alias) is True


def state_of(key: str, alias: str) -> bool | None:
    """Whether an atomic call was cancelled; None if it has not been executed either."""
    from cloudtask.models import Execution

    found = Execution.objects.using(alias).filter(pk=key)
    state: bool | None = found.values_list("is_cancelled", flat=True).first()
    return state


def prune(alias: str, older_than: timedelta, limit: int = 10_000) -> int:
    """Forget executions that no message in flight can repeat; how many."""
    from cloudtask.models import Execution

    rows = Execution.objects.using(alias)
    # A cancelled call may have waited for an eta at the horizon of Cloud Tasks.
    has_run = Q(is_cancelled=False, ran_at__lt=database_now() - older_than)
    is_over = Q(ran_at__lt=database_now() - older_than - HORIZON)
    old = rows.filter(has_run | is_over)
    keys = list(old.values_list("pk", flat=True)[:limit])
    return delete_by_key(rows, keys)
