"""Translates errors, opens separate transactions and deletes rows, for all tables."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from django.apps import apps
from django.db import (
    DEFAULT_DB_ALIAS,
    Error,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.db.models import AutoField, BigAutoField, Model, QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import InsertQuery

from cloudtask.exceptions import EnqueueError, EnqueueUnavailable

T = TypeVar("T")

MOST_TRIES = 30  # of a transaction of ours that others disturb: each time one succeeds
LONGEST_PAUSE = 0.1  # seconds between two tries
MOST_KEYS = 500  # in one query: servers and drivers limit the number of parameters


def delete_by_key(rows: QuerySet[Any], keys: Sequence[str]) -> int:
    """Delete those of `rows` that have one of `keys`; returns their number."""
    deleted = 0
    for start in range(0, len(keys), MOST_KEYS):
        found = rows.filter(pk__in=keys[start : start + MOST_KEYS])
        deleted += found.delete()[1].get(rows.model._meta.label, 0)
    return deleted


def inserted(row: Model, alias: str) -> bool:
    """Insert `row`, unless one with its key exists; returns whether it was inserted.

    It is one statement, which needs no transaction. If a concurrent transaction has
    inserted such a row, this waits for its end.
    """
    query = InsertQuery(type(row), on_conflict=OnConflict.IGNORE)
    columns: list[Any] = [f for f in row._meta.concrete_fields if not _is_auto(f)]
    query.insert_values(columns, [row])
    [(sql, params)] = query.get_compiler(alias).as_sql()
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return bool(cursor.rowcount)


def _is_auto(column: Any) -> bool:
    return isinstance(column, AutoField | BigAutoField)


def without_waiting(alias: str) -> AbstractContextManager[object]:
    """Commits inside don't wait for the disk, where the database can do so.

    If its server crashes within a second, they are undone: it is for statements that
    are done again then. In an open transaction it does nothing, since that is another
    one's to keep.
    """
    connection = connections[alias]
    is_possible = (
        connection.vendor == "postgresql"
        and connection.get_autocommit()
        and not connection.in_atomic_block
        and not connection.settings_dict["OPTIONS"].get("server_side_binding")
    )
    return connection.execute_wrapper(_not_waiting) if is_possible else nullcontext()


def _not_waiting(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    # Sent together, both are one transaction, in which SET LOCAL holds:
    # https://www.postgresql.org/docs/current/protocol-flow.html, "Multiple Statements
    # in a Simple Query".
    return execute(f"SET LOCAL synchronous_commit TO OFF; {sql}", params, many, context)


@contextmanager
def translated(what: str, alias: str) -> Iterator[None]:
    """Raise EnqueueUnavailable if the database can't be reached for `what`, or lacks a
    table of ours."""
    try:
        yield
    except Error as error:
        if not is_unavailable(error):
            raise
        raise EnqueueUnavailable(
            f"{what} in the database {alias!r} failed: {reason(error, alias)}"
        ) from error


def is_unavailable(error: Error) -> bool:
    """Whether the database can't be reached, or has not been migrated."""
    return isinstance(error, OperationalError | InterfaceError) or _lacks_table(error)


def reason(error: Error, alias: str) -> str:
    """The text of `error`; if a table of ours is missing, also what makes it."""
    if not _lacks_table(error):
        return str(error)
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database={alias}"
    text = str(error).partition("\n")[0]
    return f"{text}. Run `manage.py migrate cloudtask{option}`."


# Codes of databases for a table that does not exist. SQLite has only a text.
_NO_TABLE = {
    "42P01",  # PostgreSQL: undefined_table
    1146,  # MariaDB and MySQL
}


def _lacks_table(error: Error) -> bool:
    cause = error.__cause__ or error
    codes = {getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None)}
    is_missing = bool(_NO_TABLE & {*codes, *filter(_is_code, cause.args[:1])})
    text = str(cause)
    if not is_missing and not text.startswith("no such table"):
        return False
    ours = apps.get_app_config("cloudtask").get_models()
    return not {m._meta.db_table for m in ours}.isdisjoint(re.findall(r"\w+", text))


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


# Codes of databases for a transaction that others disturbed: it may succeed if it is
# tried again as a whole.
_CONFLICTS = {
    "40001",  # PostgreSQL: serialization_failure
    "40P01",  # PostgreSQL: deadlock_detected
    1213,  # MariaDB and MySQL: deadlock
    1020,  # MariaDB: the record has changed since it was read
    "SQLITE_BUSY_SNAPSHOT",
}


def is_conflict(error: BaseException) -> bool:
    """Whether the database has ended a transaction because of a concurrent one."""
    cause: BaseException | None = error
    while cause is not None:
        names = ("sqlstate", "pgcode", "sqlite_errorname")
        codes = {getattr(cause, name, None) for name in names}
        if _CONFLICTS & {*codes, *filter(_is_code, cause.args[:1])}:
            return True
        cause = cause.__cause__
    return False


def _is_code(value: object) -> bool:
    return isinstance(value, int)


def undisturbed(transact: Callable[[], T], alias: str, *, is_ours: bool) -> T:
    """The result of `transact`, which writes to `alias` in one transaction.

    If it is a transaction of ours, it is tried again after a conflict with another one.
    In a transaction of the caller's, EnqueueUnavailable says that nothing was enqueued.
    """
    tries = 1
    while True:
        try:
            return transact()
        except EnqueueUnavailable as error:
            if not is_conflict(error):
                raise
            if not is_ours:
                raise EnqueueUnavailable(
                    f"{error} Nothing was enqueued: roll your transaction on {alias!r} "
                    "back, and run it again as a whole."
                ) from error
            if tries >= MOST_TRIES:
                raise
        time.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.001 * 2**tries)))
        tries += 1


def is_relational(alias: str) -> bool:
    """Whether the database has tables in which this library can keep rows.

    Datastore, through django-gcloud-connectors, has none, nor has Django's dummy, which
    stands for an empty DATABASES. Both name no vendor.
    """
    return connections[alias].vendor != "unknown"


def is_open(alias: str) -> bool:
    """Whether a rollback on `alias` could still undo what is written now.

    `set_autocommit(False)` begins a transaction as `atomic()` does. A connection that
    is not open yet has none; asking it for its mode would open it. Nor has an unknown
    alias one: the limits refuse it, and name the nearest.
    """
    if alias not in connections.settings:
        return False
    connection = connections[alias]
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.autocommit


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
