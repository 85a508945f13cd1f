"""Translates errors, opens separate transactions and deletes rows, for all tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import QuerySet

from cloudtask.exceptions import EnqueueError, EnqueueUnavailable

MOST_KEYS = 500  # in one query: servers and drivers limit the number of parameters


def delete_by_key(rows: QuerySet[Any], keys: Sequence[str]) -> int:
    """Delete those of `rows` that have one of `keys`; returns their number."""
    deleted = 0
    for start in range(0, len(keys), MOST_KEYS):
        found = rows.filter(pk__in=keys[start : start + MOST_KEYS])
        deleted += found.delete()[1].get(rows.model._meta.label, 0)
    return deleted


@contextmanager
def translated(what: str, alias: str) -> Iterator[None]:
    """Raise EnqueueUnavailable if the database can't be reached for `what`."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise EnqueueUnavailable(
            f"{what} in the database {alias!r} failed: {error}"
        ) from error


class Database:
    """The database of a store, and the two ways to use it."""

    database: str  # its alias

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """A transaction. Errors of the connection are raised as EnqueueUnavailable."""
        with self.reading(what), transaction.atomic(using=self.database):
            yield

    def reading(self, what: str) -> AbstractContextManager[None]:
        """The same without a transaction."""
        return translated(what, self.database)


# Codes of databases for a statement that took longer than the session allows.
_TIMEOUTS = {
    "57014",  # PostgreSQL: statement_timeout, or a cancel request
    1969,  # MariaDB: max_statement_time
    3024,  # MySQL: max_execution_time
    "interrupted",  # SQLite: Connection.interrupt()
}


def is_statement_timeout(error: BaseException) -> bool:
    """Whether a statement took too long; a query of fewer rows may then succeed."""
    cause = error.__cause__ or error
    codes = {getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None)}
    return bool(_TIMEOUTS & {*codes, *cause.args[:1]})


def in_transaction(alias: str) -> bool:
    """Whether a transaction is open on `alias`, other than that of a TestCase."""
    connection = connections[alias]
    if not connection.in_atomic_block:
        # set_autocommit(False) begins one. A connection that is not open has none.
        return connection.connection is not None and not connection.autocommit
    outermost: Any = connection.atomic_blocks[0]
    return not outermost._from_testcase


def is_undecided(alias: str) -> bool:
    """Whether a write to `alias` now may still be rolled back.

    The transaction of a TestCase does not count, but an `atomic()` block inside does.
    """
    blocks: Any = connections[alias].atomic_blocks
    return any(not block._from_testcase for block in blocks)


def note_commit(alias: str, commits: list[int]) -> None:
    """Append to `commits` when the transaction that has just begun commits.

    This happens before any other hook for that commit.
    """
    # Inside another transaction, such as a test case's, this one does not commit.
    if not connections[alias].savepoint_ids:
        transaction.on_commit(lambda: commits.append(1), using=alias)


@contextmanager
def apart(alias: str, what: str) -> Iterator[None]:
    """A transaction on `alias` that commits with the block, not with the caller's.

    If the caller has a transaction open, the block uses a second connection. SQLite
    allows only one writer, so EnqueueError is raised there, with `what` in its text.
    """
    ours = connections[alias]
    if not in_transaction(alias):
        with transaction.atomic(using=alias):
            yield
        return
    if ours.vendor == "sqlite":
        raise EnqueueError(
            f"{what} in the database {alias!r} can't be done inside its open "
            "transaction: it must last even if that is rolled back, and SQLite has one "
            "writer at a time. Enqueue with the transaction, or outside of it."
        )
    connections[alias] = second = ours.copy()
    try:
        with transaction.atomic(using=alias):
            yield
    finally:
        connections[alias] = ours
        second.close()
