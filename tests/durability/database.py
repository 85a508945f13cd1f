"""Databases that commit, where threads and processes meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from asgiref.sync import SyncToAsync
from django.apps import apps
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

ALIASES = ("default", "other")


@contextmanager
def committing(folder: Path) -> Iterator[None]:
    """New connections in the place of those on which the test's transaction is open.

    SQLite's databases become files: in memory, threads and processes can't share them.
    """
    before = {a: (connections.settings[a], connections[a]) for a in ALIASES}
    for alias in ALIASES:
        if connections[alias].vendor == "sqlite":
            name = _copied(alias, folder / f"{alias}.sqlite3")
            connections.settings[alias] = {**connections.settings[alias], "NAME": name}
        if connections[alias].vendor == "postgresql":
            # No test takes the power off: commits need not wait for the disk.
            hasty = {"options": "-c synchronous_commit=off"}
            connections.settings[alias] = {
                **connections.settings[alias],
                "OPTIONS": {**connections.settings[alias]["OPTIONS"], **hasty},
            }
        connections[alias] = connections.create_connection(alias)
    _forget_of_asynchronous_code()
    try:
        yield
    finally:
        for alias, (settings, connection) in before.items():
            connections[alias].close()
            connections.settings[alias], connections[alias] = settings, connection
            if connection.vendor != "sqlite":
                _empty(alias)
        _forget_of_asynchronous_code()


def _forget_of_asynchronous_code() -> None:
    """Drop the connections of the thread that runs `sync_to_async`: it outlives tests,
    and would keep on using the database of another one."""
    SyncToAsync.single_thread_executor.submit(_forget).result()


def _forget() -> None:
    for alias in ALIASES:
        # SQLite's own method does not close a database in memory.
        BaseDatabaseWrapper.close(connections[alias])
        del connections[alias]


@contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    """A transaction, or a savepoint in one, that is rolled back at the end."""
    with transaction.atomic(using=using):
        yield
        transaction.set_rollback(True, using=using)


def _copied(alias: str, path: Path) -> str:
    connections[alias].ensure_connection()
    path.write_bytes(connections[alias].connection.serialize())
    return str(path)


def _empty(alias: str) -> None:
    """Delete what a test has committed, on a connection of its own."""
    connection = connections.create_connection(alias)
    # Constraints are checked at the end of the transaction, or not at all.
    with closing(connection), connection.constraint_checks_disabled():
        connection.set_autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute(
                " UNION ALL ".join(
                    f"SELECT '{table}' FROM (SELECT 1 AS a) AS one WHERE EXISTS "
                    f"(SELECT 1 FROM {connection.ops.quote_name(table)})"
                    for table in _tables()
                )
            )
            for (table,) in cursor.fetchall():
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")
        connection.commit()


def _tables() -> Iterator[str]:
    for label in ("cloudtask", "testapp"):
        for model in apps.get_app_config(label).get_models(include_auto_created=True):
            # A model that a test has defined for itself has no table.
            if model._meta.managed and not model._meta.proxy:
                yield model._meta.db_table
