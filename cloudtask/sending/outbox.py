"""Puts messages into the outbox, in the transaction that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import InterfaceError, OperationalError, transaction

from cloudtask import envelope, failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.message import Message
from cloudtask.sending.on_commit import relay_after
from cloudtask.sending.relay import forget_rows, place_of, rows_of
from cloudtask.stores import store
from cloudtask.stores.transactions import MOST_KEYS, is_open, undisturbed

if TYPE_CHECKING:
    from cloudtask.models import OutboxMessage

HEAD_START = timedelta(seconds=15)  # for the process that made the row to send it
LARGEST_INSERT = 1_500_000  # bytes; escaped they double, and servers bound a packet


def add(messages: Sequence[Message], alias: str) -> None:
    """Put `messages` into the outbox of `alias`, and send them after the commit.

    The rows belong to the open transaction, or else to one of their own. Raises
    EnqueueUnavailable when the database can't be reached.
    """
    marked = [replace(message, outboxed=True) for message in messages]
    # Before the block: a message that can't be sealed must not break the transaction.
    inserts = list(_inserts([_row(message) for message in marked]))
    undisturbed(
        lambda: _insert(inserts, marked, alias), alias, is_ours=not is_open(alias)
    )


def _insert(
    inserts: Sequence[list[OutboxMessage]], marked: Sequence[Message], alias: str
) -> None:
    try:
        with transaction.atomic(using=alias, savepoint=False):
            for rows in inserts:
                rows_of(alias).bulk_create(rows)
            failpoints.reached("outbox.added")
            relay_after(marked, alias)
    except (OperationalError, InterfaceError) as error:
        raise EnqueueUnavailable(
            f"Task {marked[0].task} ({marked[0].id}) was not enqueued on queue "
            f"{marked[0].queue!r}: the outbox in database {alias!r} failed: {error}"
        ) from error


def _row(message: Message) -> OutboxMessage:
    from cloudtask.models import OutboxMessage

    return OutboxMessage(
        key=message.key,
        task=message.task,
        queue=message.queue,
        envelope=envelope.seal(
            message, place=place_of(message.key, message.task, message.queue)
        ),
        created_at=database_now(),
        due_at=database_now() + HEAD_START,
    )


def _inserts(rows: Sequence[OutboxMessage]) -> Iterator[list[OutboxMessage]]:
    """`rows` in lists that are not too large for one statement."""
    chunk: list[OutboxMessage] = []
    size = 0
    for row in rows:
        size += len(row.envelope)
        if chunk and size > LARGEST_INSERT:
            yield chunk
            chunk, size = [], len(row.envelope)
        chunk.append(row)
    yield chunk


def keep_payloads(alias: str, older_than: timedelta) -> None:
    """Touch the payloads of rows older than `older_than`, so that none is pruned."""
    waiting = rows_of(alias).filter(created_at__lt=database_now() - older_than)
    for key in waiting.values_list("key", flat=True).iterator():
        store().touch_payload(key.partition("-")[0])


def waiting(keys: Sequence[str], alias: str) -> set[str]:
    """Those of `keys` that have a row in the outbox of `alias`."""
    there: set[str] = set()
    for start in range(0, len(keys), MOST_KEYS):
        some = rows_of(alias).filter(key__in=keys[start : start + MOST_KEYS])
        there.update(some.values_list("key", flat=True))
    return there


def forget(message: Message) -> None:
    """Delete the row of a message that was delivered, if it has one."""
    if message.outboxed:
        forget_rows(message.options.database, [message.key])
