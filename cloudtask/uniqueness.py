"""One waiting message per key, for tasks with `unique`.

The key lives in a row of `database` from `defer()` until the call starts, so the
answer is exact. With `small` there is no row: the key becomes the name of the Cloud
Tasks task, and the service alone decides, which it does also for up to 24 hours after
the task ran.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from cloudtask import codec
from cloudtask.message import Enqueued, Message, Options
from cloudtask.registry import Definition

PATIENCE = timedelta(
    hours=24
)  # after its eta, a message that never started counts as gone


def key_of(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str | None:
    """The key of a call, or None when the task is not `unique`."""
    if options.unique is False:
        return None
    if callable(options.unique):
        value = options.unique(*args, **kwargs)
    else:
        bound = definition.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = list(bound.arguments.items())
    data = definition.path.encode() + b"\n" + codec.dumps(value)
    return hashlib.sha256(data).hexdigest()


def claim(message: Message) -> Enqueued | None:
    """Take the key of `message` in the open transaction.

    Returns the receipt of the message that waits already, or None when the key is
    ours. A concurrent claim waits until that transaction ends.
    """
    from cloudtask.models import UniqueKey

    rows = UniqueKey.objects.using(message.options.database)
    wait = timedelta(seconds=max(0.0, (message.eta or 0.0) - message.created))
    values = {
        "task": message.task,
        "message": message.id,
        "name": message.name,
        "queue": message.queue,
        "expires_at": Now() + wait + PATIENCE,
    }
    while True:
        try:
            with transaction.atomic(using=message.options.database):
                rows.create(key=str(message.unique), **values)
            return None
        except IntegrityError:
            taken = rows.filter(key=message.unique)
            if taken.filter(expires_at__lt=Now()).update(**values):
                return None
            if holder := taken.first():
                return Enqueued(holder.message, holder.name, holder.queue)
            # It was released in between: try again.


def release(message: Message) -> None:
    """Give the key back: `message` waits no longer, it starts."""
    from cloudtask.models import UniqueKey

    if message.unique is None or message.options.small:
        return
    rows = UniqueKey.objects.using(message.options.database)
    rows.filter(key=message.unique, message=message.id).delete()


def prune(alias: str, limit: int = 10_000) -> int:
    """Forget keys whose message never started in its time; how many."""
    from cloudtask.models import UniqueKey

    rows = UniqueKey.objects.using(alias)
    keys = list(rows.filter(expires_at__lt=Now()).values_list("pk", flat=True)[:limit])
    return rows.filter(pk__in=keys).delete()[0]
