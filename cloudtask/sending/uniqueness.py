"""Keeps one waiting message per key, for tasks with `unique`.

The key is in a row of `database` from `defer()` until the call starts, so the answer is
exact. With `small` there is no row: the key becomes the name of the Cloud Tasks task.
The service then decides alone, and it still refuses the name for up to 24 hours after
the task ran.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.models import Q, QuerySet

from cloudtask import codec, envelope, failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import BadSignature
from cloudtask.message import Enqueued, Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.stores.database.fitting import check, fetched
from cloudtask.stores.transactions import (
    apart,
    delete_by_key,
    in_transaction,
    is_open,
    translated,
)

if TYPE_CHECKING:
    from cloudtask.models import UniqueKey

logger = logging.getLogger("cloudtask")

# A message that has not started this long after its eta is taken to be lost.
PATIENCE = timedelta(hours=24)


def key_of(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    """The key of a call of a `unique` task.

    Raises UnsupportedValue, with task and place, for a key that can't travel, and
    TypeError, with task and option, for a function that does not take the arguments.
    """
    if callable(options.unique):
        _check_function(definition, options.unique, args, kwargs)
        value = options.unique(*args, **kwargs)
    else:
        bound = definition.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = list(bound.arguments.items())
    key = codec.dumps(value, root=f"The unique key of {definition.path}")
    data = definition.path.encode() + b"\n" + key
    return hashlib.sha256(data).hexdigest()


def _check_function(
    definition: Definition,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some builtins tell no signature
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise TypeError(
            f"The option unique of {definition.path} is {name}{signature}, which does "
            f"not take the arguments of the call: {error}."
        ) from None


def _rows(alias: str) -> QuerySet[UniqueKey]:
    from cloudtask.models import UniqueKey

    return UniqueKey.objects.using(alias)


def seen_waiting(messages: Sequence[Message], options: Options) -> dict[str, Enqueued]:
    """Receipts of the calls that wait under the keys of `messages`, by message id.

    Only those that the open transaction can see, and only where the keys are claimed in
    a second transaction, which would block on rows that this one has written.
    """
    if options.transactional is not False or not in_transaction(options.database):
        return {}
    holders = {message.id: _holder(message) for message in messages}
    return {message_id: receipt for message_id, receipt in holders.items() if receipt}


def _holder(message: Message) -> Enqueued | None:
    rows = _rows(message.options.database).filter(key=message.unique)
    found = fetched(rows.filter(expires_at__gte=database_now()))
    return _receipt(found[0]) if found and _is_sealed(found[0]) else None


@contextmanager
def claiming(options: Options) -> Iterator[None]:
    """The transaction in which keys are claimed: the caller's, if it has one.

    With `transactional=False` it commits whatever the caller's does. Raises
    EnqueueUnavailable when the database can't be reached.
    """
    alias, what = options.database, "Claiming a unique key"
    with translated(what, alias):
        if options.transactional is False:
            with apart(alias, what):
                yield
        else:
            with transaction.atomic(using=alias):
                yield


def claims_apart(options: Options) -> bool:
    """Whether the keys are claimed in a transaction that is not the caller's."""
    alias = options.database
    if options.transactional is False and in_transaction(alias):
        return True  # on a second connection
    return not is_open(alias)


def claim_all(messages: Sequence[Message]) -> dict[str, Enqueued | None]:
    """Claim the key of each message: by its id, the receipt of who had it, or None."""
    # Every process claims in the same order, so that no two wait for each other.
    ordered = sorted(messages, key=lambda message: message.unique or "")
    return {message.id: claim(message) for message in ordered}


def claim(message: Message) -> Enqueued | None:
    """Take the key of `message` in the open transaction.

    Returns the receipt of the message that has the key, or None when it is ours now. A
    concurrent claim blocks until that transaction ends. So does the start of the
    message that has the key, which then sees what the transaction has written. Raises
    EnqueueUnavailable when the database can't be reached, or ends a deadlock.
    """
    alias = message.options.database
    with translated(f"Claiming the unique key of {message.task}", alias):
        _upsert(message)
        # A locking read sees what others have committed, whatever the isolation.
        locked = _rows(alias).filter(key=message.unique).select_for_update()
        is_expired = Q(expires_at__lt=database_now())
        [holder] = fetched(locked.annotate(is_expired=is_expired))
        if holder.message == message.id:
            failpoints.reached("unique.claimed")
            return None
        if holder.is_expired or not _is_sealed(holder):
            locked.update(**_values(message))
            return None
    return _receipt(holder)


def _upsert(message: Message) -> None:
    """Insert the row, or lock the one that exists, in one statement.

    On MySQL an INSERT that fails leaves shared locks, on which claimers deadlock.
    """
    from cloudtask.models import UniqueKey

    alias = message.options.database
    has_target = connections[alias].features.supports_update_conflicts_with_target
    _rows(alias).bulk_create(
        [UniqueKey(key=str(message.unique), **_values(message))],
        update_conflicts=True,
        unique_fields=["key"] if has_target else None,
        update_fields=["task"],  # to the value that it has
    )


def _values(message: Message) -> dict[str, Any]:
    delay = timedelta(seconds=max(0.0, (message.eta or 0.0) - message.created))
    enqueued = Enqueued(message.id, message.name, message.queue)
    return {
        "task": message.task,
        "message": message.id,
        "name": message.name,
        "queue": message.queue,
        "expires_at": database_now() + delay + PATIENCE,
        "seal": envelope.seal_text(None, place=_place(str(message.unique), enqueued)),
    }


def _place(key: str, holder: Enqueued) -> envelope.Place:
    return "unique key", key, holder.id, holder.name, holder.queue


def _is_sealed(holder: UniqueKey) -> bool:
    """Whether this library has written the row; one that it has not is overwritten."""
    try:
        check(holder)
        place = _place(holder.key, _receipt(holder))
        envelope.unseal_text(holder.seal, place=place)
    except BadSignature as error:
        logger.error("A unique key of %s is claimed anew. %s", holder.task, error)
        return False
    return True


def _receipt(holder: UniqueKey) -> Enqueued:
    return Enqueued(holder.message, holder.name, holder.queue)


def release(message: Message) -> None:
    """Free the key: `message` is about to start.

    Raises EnqueueUnavailable when the database can't be reached.
    """
    if message.unique is None or message.sequence:
        return
    if message.named and message.name == message.unique:
        return  # small: the service has the key
    alias = message.options.database
    with translated(f"Releasing the unique key of {message.task}", alias):
        _rows(alias).filter(key=message.unique, message=message.id).delete()


def free(key: str, alias: str) -> None:
    """Free the unique key that the call with the id `key` holds, if it holds one."""
    # Read first: without an index on `message`, a DELETE of MySQL would lock all rows.
    held = list(_rows(alias).filter(message=key).values_list("pk", flat=True))
    if held:
        _rows(alias).filter(pk__in=held, message=key).delete()


def prune(alias: str, limit: int = 10_000) -> int:
    """Delete the keys of messages that are taken to be lost; how many."""
    rows = _rows(alias)
    old = rows.filter(expires_at__lt=database_now())
    return delete_by_key(rows, list(old.values_list("pk", flat=True)[:limit]))
