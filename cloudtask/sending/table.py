"""The rows of the outboxes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet

from cloudtask.message import Message
from cloudtask.stores.compiled import Statement, deleting
from cloudtask.stores.transactions import MOST_KEYS, without_waiting

if TYPE_CHECKING:
    from cloudtask.models import OutboxMessage


def rows_of(alias: str) -> QuerySet[OutboxMessage]:
    from cloudtask.models import OutboxMessage

    return OutboxMessage.objects.using(alias)


def forget_rows(alias: str, keys: Sequence[str]) -> None:
    """Delete the rows of `keys` that still exist: a statement each MOST_KEYS of them.

    Nothing refers to these rows, so there is nothing for a transaction to hold
    together. Nor is there anything to wait for: a row that comes back after a crash of
    the server is sent under the same name again.
    """
    for start in range(0, len(keys), MOST_KEYS):
        some = keys[start : start + MOST_KEYS]
        with without_waiting(alias):
            if len(some) == 1:
                _deletion(alias).run(alias, {_KEY: some[0]})
            else:
                rows: Any = rows_of(alias).filter(key__in=some)
                rows._raw_delete(alias)


_KEY = "the key"  # stands for it in the statement


@lru_cache(maxsize=16)
def _deletion(alias: str) -> Statement:
    """The DELETE of one row: each call in a transaction of its own needs it twice."""
    return deleting(rows_of(alias).filter(key=_KEY))


def existing(messages: Sequence[Message], alias: str) -> list[Message]:
    """Those of `messages` whose row waits in the outbox of `alias`, in their order."""
    from cloudtask.models import OutboxMessage

    there: set[str] = set()
    waiting = rows_of(alias).filter(state=OutboxMessage.State.WAITING)
    for start in range(0, len(messages), MOST_KEYS):
        keys = [message.key for message in messages[start : start + MOST_KEYS]]
        there.update(waiting.filter(key__in=keys).values_list("key", flat=True))
    return [message for message in messages if message.key in there]
