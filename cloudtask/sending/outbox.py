"""Puts messages into the outbox, in the transaction that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from django.db import Error, connections, transaction

from cloudtask import clock, envelope, failpoints
from cloudtask.clock import database_now
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.message import Message
from cloudtask.sending.on_commit import relay_after
from cloudtask.sending.relay import place_of
from cloudtask.sending.table import forget_rows, rows_of
from cloudtask.stores import store
from cloudtask.stores.transactions import (
    MOST_KEYS,
    is_open,
    is_unavailable,
    reason,
    undisturbed,
)

Row = tuple[str, str, str, bytes]  # key, task, queue, envelope

HEAD_START = timedelta(seconds=15)  # for the process that made the row to send it
LARGEST_INSERT = 1_500_000  # bytes; escaped they double, and servers bound a packet


def add(messages: Sequence[Message], alias: str) -> None:
    """Put `messages` into the outbox of `alias`, and send them after the commit.

    The rows belong to the open transaction, or else to one of their own. Raises
    EnqueueUnavailable when the database can't be reached, or has no outbox.
    """
    marked = [replace(message, outboxed=True) for message in messages]
    # Before the block: a message that can't be sealed must not break the transaction.
    rows = [_row(message) for message in marked]
    undisturbed(lambda: _insert(rows, marked, alias), alias, is_ours=not is_open(alias))


def _insert(rows: Sequence[Row], marked: Sequence[Message], alias: str) -> None:
    try:
        with transaction.atomic(using=alias, savepoint=False):
            # Inside the block: Django 6.1 asks the database how many rows it takes.
            for some in _inserts(rows, alias):
                _write(some, alias)
            failpoints.reached("outbox.added")
            relay_after(marked, alias)
    except Error as error:
        if not is_unavailable(error):
            raise
        raise EnqueueUnavailable(
            f"Task {marked[0].task} ({marked[0].id}) was not enqueued on queue "
            f"{marked[0].queue!r}: the outbox in database {alias!r} failed: "
            f"{reason(error, alias)}"
        ) from error


def _row(message: Message) -> Row:
    place = place_of(message.key, message.task, message.queue)
    return message.key, message.task, message.queue, envelope.seal(message, place=place)


def _inserts(rows: Sequence[Row], alias: str) -> Iterator[Sequence[Row]]:
    """`rows` in lists that are not too large for one statement."""
    from cloudtask.models import OutboxMessage

    fields = OutboxMessage._meta.local_concrete_fields
    most = max(connections[alias].ops.bulk_batch_size(fields, rows), 1)
    chunk: list[Row] = []
    size = 0
    for row in rows:
        length = len(row[-1])
        if chunk and (len(chunk) >= most or size + length > LARGEST_INSERT):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += length
    yield chunk


def _write(rows: Sequence[Row], alias: str) -> None:
    """Insert `rows` by one statement.

    Not by bulk_create(): that compiles the two times again for each row, and reads them
    back, which takes most of the time of an enqueue.
    """
    connection: Any = connections[alias]
    head, values, times = _statement(alias, connection.vendor, clock.offset())
    binary = connection.Database.Binary
    params: list[Any] = []
    for key, task, queue, sealed in rows:
        params += (key, task, queue, binary(sealed), *times)
    with connection.cursor() as cursor:
        cursor.execute(head + ", ".join([values] * len(rows)), params)


@lru_cache(maxsize=32)
def _statement(alias: str, vendor: str, offset: float) -> tuple[str, str, list[Any]]:
    """The beginning of an INSERT, the values of a row, and the parameters of its times,
    which follow on those of the row.

    They differ by the database's vendor, and by how far a test has moved the time.
    """
    from cloudtask.models import OutboxMessage

    ops: Any = connections[alias].ops
    query = rows_of(alias).query
    compiler = query.get_compiler(alias)
    moments = database_now(), database_now() + HEAD_START
    created, due = (compiler.compile(one.resolve_expression(query)) for one in moments)
    values = {
        **dict.fromkeys(("key", "task", "queue"), "%s"),
        # Django's own function for it has had another signature in each version.
        "envelope": "_binary %s" if vendor == "mysql" else "%s",
        "created_at": created[0],
        "due_at": due[0],
        "state": f"'{OutboxMessage.State.WAITING.value}'",
        "attempts": "0",
        "error": "''",
    }
    columns = ", ".join(map(ops.quote_name, values))
    table = ops.quote_name(OutboxMessage._meta.db_table)
    return (
        f"INSERT INTO {table} ({columns}) VALUES ",  # noqa: S608  of names of our own
        f"({', '.join(values.values())})",
        [*created[1], *due[1]],
    )


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
