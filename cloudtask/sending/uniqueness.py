"""One waiting message per key, for tasks with `unique`.

The key lives in a row of `database` from `defer()` until the call starts, so the
answer is exact. With `small` there is no row: the key becomes the name of the Cloud
Tasks task, and the service alone decides, which it does also for up to 24 hours after
the task ran.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.models import Q, QuerySet

from cloudtask import codec, failpoints
from cloudtask.clock import database_now
from cloudtask.message import Enqueued, Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.stores.transactions import delete_by_key, translated

if TYPE_CHECKING:
    from cloudtask.models import UniqueKey

# After its eta, a message that has not started for so long counts as gone.
PATIENCE = timedelta(hours=24)


def key_of(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str | None:
    """The key of a call, or None when the task is not `unique`.

    Raises UnsupportedValue, with task and place, for a key that can't travel.
    """
    if options.unique is False:
        return None
    if callable(options.unique):
        value = options.unique(*args, **kwargs)
    else:
        bound = definition.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = list(bound.arguments.items())
    key = codec.dumps(value, root=f"The unique key of {definition.path}")
    data = definition.path.encode() + b"\n" + key
    return hashlib.sha256(data).hexdigest()


def _rows(alias: str) -> QuerySet[UniqueKey]:
    from cloudtask.models import UniqueKey

    return UniqueKey.objects.using(alias)


def waiting(message: Message) -> Enqueued | None:
    """The receipt of the message that has the key of `message`, as far as it can be
    seen from here, without waiting for anybody."""
    rows = _rows(message.options.database).filter(key=message.unique)
    holder = rows.filter(expires_at__gte=database_now()).first()
    return _receipt(holder) if holder else None


def claim(message: Message) -> Enqueued | None:
    """Take the key of `message` in the open transaction.

    Returns the receipt of the message that waits already, or None when the key is
    ours. A concurrent claim waits until that transaction ends, and so does the start of
    the message that waits: it will see what the transaction has written. Raises
    EnqueueUnavailable when the database can't be reached, or can't decide.
    """
    alias = message.options.database
    with translated(f"Claiming the unique key of {message.task}", alias):
        _upsert(message)
        # A locking read sees what others have committed, whatever the isolation.
        locked = _rows(alias).filter(key=message.unique).select_for_update()
        is_expired = Q(expires_at__lt=database_now())
        holder = locked.annotate(is_expired=is_expired).get()
        if holder.message == message.id:
            failpoints.reached("unique.claimed")
            return None
        if holder.is_expired:
            locked.update(**_values(message))
            return None
    return _receipt(holder)


def _upsert(message: Message) -> None:
    """Insert the row or lock the one that is there, by one statement everywhere: an
    INSERT that fails would leave MySQL's shared locks, on which claimers deadlock."""
    from cloudtask.models import UniqueKey

    alias = message.options.database
    has_target = connections[alias].features.supports_update_conflicts_with_target
    _rows(alias).bulk_create(
        [UniqueKey(key=str(message.unique), **_values(message))],
        update_conflicts=True,
        unique_fields=["key"] if has_target else None,
        update_fields=["task"],  # what it is already
    )


def _values(message: Message) -> dict[str, Any]:
    delay = timedelta(seconds=max(0.0, (message.eta or 0.0) - message.created))
    return {
        "task": message.task,
        "message": message.id,
        "name": message.name,
        "queue": message.queue,
        "expires_at": database_now() + delay + PATIENCE,
    }


def _receipt(holder: UniqueKey) -> Enqueued:
    return Enqueued(holder.message, holder.name, holder.queue)


def release(message: Message) -> None:
    """Give the key back: `message` waits no longer, it starts.

    Raises EnqueueUnavailable when the database can't be reached.
    """
    if message.unique is None or message.sequence:
        return
    if message.named and message.name == message.unique:
        return  # small: the service has the key
    alias = message.options.database
    with translated(f"Giving back the unique key of {message.task}", alias):
        _rows(alias).filter(key=message.unique, message=message.id).delete()


def prune(alias: str, limit: int = 10_000) -> int:
    """Forget keys whose message never started in its time; how many."""
    rows = _rows(alias)
    old = rows.filter(expires_at__lt=database_now())
    return delete_by_key(rows, list(old.values_list("pk", flat=True)[:limit]))
