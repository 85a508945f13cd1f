"""Keeps the journal in an SQLite file.

Changes are collected and committed together: those of a call before it is answered,
and with them the attempts that the dispatcher has reported since the last commit. WAL
without an fsync per commit: a committed change is with the operating system and
survives a SIGKILL of the process, not a power cut.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2  # type: ignore[import-untyped]

from cloudtask.emulator.calls import Journal, State, queue_rules
from cloudtask.emulator.protocol import Message, names, seconds_of, v2
from cloudtask.emulator.queues import Attempt, Queue, Task

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, message BLOB NOT NULL, burst INTEGER NOT NULL,
    tombstone REAL NOT NULL, retention REAL NOT NULL);
CREATE TABLE IF NOT EXISTS deleted_queues (name TEXT PRIMARY KEY, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    queue TEXT NOT NULL, id TEXT NOT NULL, message BLOB NOT NULL,
    eta REAL NOT NULL, created REAL NOT NULL,
    dispatches INTEGER NOT NULL DEFAULT 0, responses INTEGER NOT NULL DEFAULT 0,
    executions INTEGER NOT NULL DEFAULT 0, first_dispatch REAL,
    last_schedule REAL, last_dispatch REAL, last_response REAL, last_status INTEGER,
    UNIQUE (queue, id));
CREATE TABLE IF NOT EXISTS tombstones (
    queue TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (name TEXT PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (name TEXT PRIMARY KEY, pem BLOB NOT NULL);
"""
_CLEARED = ("queues", "deleted_queues", "tasks", "tombstones", "operations")


class SqliteJournal(Journal):
    """Keeps `State` in a file; one process at a time may hold it.

    Opening raises `OSError` when the file is in use or is not an emulator's.
    """

    durable = True

    def __init__(self, path: Path) -> None:
        self._pending: list[tuple[str, tuple[Any, ...]]] = []
        self._connection = _open(path)

    def key(self) -> bytes | None:
        """The signing key of an earlier run."""
        row = self._connection.execute("SELECT pem FROM keys").fetchone()
        return None if row is None else bytes(row[0])

    def put_key(self, pem: bytes) -> None:
        self._add("INSERT OR REPLACE INTO keys VALUES ('oidc', ?)", pem)

    def put_queue(self, queue: Queue) -> None:
        message = queue_rules.to_message(queue).SerializeToString()
        self._add("DELETE FROM deleted_queues WHERE name = ?", queue.name)
        self._add(
            "INSERT OR REPLACE INTO queues VALUES (?, ?, ?, ?, ?)",
            queue.name,
            message,
            queue.config.burst,
            queue.config.tombstone,
            queue.config.retention,
        )

    def drop_queue(self, name: str, until: float) -> None:
        self._add("DELETE FROM queues WHERE name = ?", name)
        self._add("DELETE FROM tasks WHERE queue = ?", name)
        self._add("DELETE FROM tombstones WHERE queue = ?", name)
        self._add("INSERT OR REPLACE INTO deleted_queues VALUES (?, ?)", name, until)

    def purge_queue(self, queue: Queue) -> None:
        until = (queue.purge_time or 0.0) + queue.config.tombstone
        self._add(
            "INSERT OR REPLACE INTO tombstones "
            "SELECT queue, id, ? FROM tasks WHERE queue = ?",
            until,
            queue.name,
        )
        self._add("DELETE FROM tasks WHERE queue = ?", queue.name)

    def put_task(self, queue: Queue, task: Task) -> None:
        self._add(
            "INSERT OR REPLACE INTO tasks (queue, id, message, eta, created) "
            "VALUES (?, ?, ?, ?, ?)",
            queue.name,
            task.id,
            task.message.SerializeToString(),
            task.eta,
            task.created,
        )

    def put_attempt(self, queue: Queue, task: Task) -> None:
        last = task.last_attempt
        assert last is not None  # noqa: S101 - called after an attempt
        self._add(
            "UPDATE tasks SET eta = ?, dispatches = ?, responses = ?, executions = ?, "
            "first_dispatch = ?, last_schedule = ?, last_dispatch = ?, "
            "last_response = ?, last_status = ? WHERE queue = ? AND id = ?",
            task.eta,
            task.dispatch_count,
            task.response_count,
            task.execution_count,
            task.first_dispatch,
            last.schedule_time,
            last.dispatch_time,
            last.response_time,
            last.status,
            queue.name,
            task.id,
        )

    def drop_task(self, queue: Queue, task_id: str) -> None:
        self._add("DELETE FROM tasks WHERE queue = ? AND id = ?", queue.name, task_id)
        until = queue.tombstones.get(task_id)
        if until is not None:
            self._add(
                "INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)",
                queue.name,
                task_id,
                until,
            )

    def put_operation(self, operation: Message) -> None:
        self._add(
            "INSERT OR REPLACE INTO operations VALUES (?, ?)",
            operation.name,
            operation.SerializeToString(),
        )

    def drop_operation(self, name: str) -> None:
        self._add("DELETE FROM operations WHERE name = ?", name)

    def clear(self) -> None:
        for table in _CLEARED:
            self._add(f"DELETE FROM {table}")  # noqa: S608 - names of our own

    def flush(self) -> None:
        """Commit every change so far; raises what SQLite raises."""
        if not self._pending:
            return
        with self._connection:
            self._connection.execute("BEGIN")
            for statement, values in self._pending:
                self._connection.execute(statement, values)
        self._pending.clear()  # not reached when the disk is full: kept for later

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._connection.close()

    def load(self, state: State) -> None:
        """Put what the file holds into an empty state."""
        now = state.clock()
        self._connection.execute("DELETE FROM tombstones WHERE until <= ?", (now,))
        for row in self._connection.execute("SELECT * FROM queues"):
            _load_queue(state, row)
        for row in self._connection.execute("SELECT * FROM tasks ORDER BY rowid"):
            _load_task(state, row)
        rows = self._connection.execute("SELECT * FROM tombstones ORDER BY until")
        for queue, task_id, until in rows:
            if queue in state.queues:
                state.queues[queue].tombstones[task_id] = until
        state.deleted_queues.update(
            self._connection.execute("SELECT * FROM deleted_queues")
        )
        for name, message in self._connection.execute("SELECT * FROM operations"):
            state.operations[name] = operations_pb2.Operation.FromString(message)

    def _add(self, statement: str, *values: Any) -> None:
        self._pending.append((statement, values))


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600)  # payloads and the signing key are in it
        connection = sqlite3.connect(
            path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _check_version(connection, path)
        connection.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} COMMIT;")
    except (sqlite3.Error, OSError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise OSError(
                f"The data file {path} is locked: another emulator uses it. End that "
                "one, or choose another file."
            ) from error
        raise OSError(f"The data file {path} can't be used: {error}.") from error
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        connection.close()
        raise OSError(f"The data file {path} was written by another version.")
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _load_queue(state: State, row: tuple[Any, ...]) -> None:
    name, data, burst, tombstone, retention = row
    message = v2.Queue.FromString(data)
    project = names.parse_queue_name(name).project
    config = replace(
        queue_rules.from_complete_message(message, project),
        burst=burst,
        tombstone=tombstone,
        retention=retention,
    )
    queue = Queue(name, config, now=state.clock(), rate_limits=state.rate_limits)
    queue.paused = message.state == v2.Queue.PAUSED
    if message.HasField("purge_time"):
        queue.purge_time = seconds_of(message.purge_time)
    state.queues[name] = queue


def _load_task(state: State, row: tuple[Any, ...]) -> None:
    queue_name, task_id, data, *facts = row
    eta, created, dispatches, responses, executions, first, *last = facts
    task = Task(
        task_id,
        v2.Task.FromString(data),
        eta,
        created,
        dispatch_count=dispatches,
        response_count=responses,
        execution_count=executions,
        first_dispatch=first,
        last_attempt=None if first is None else Attempt(*last),
    )
    state.queues[queue_name].add(task)
