"""Puts back what a task leaves changed on the database connections of its process."""

from __future__ import annotations

from typing import Any

from django.db import connections


def states() -> dict[str, tuple[int, bool]]:
    """The open blocks and the autocommit mode of each connection in use."""
    return {
        connection.alias: (len(connection.atomic_blocks), _commits_itself(connection))
        for connection in connections.all(initialized_only=True)
    }


def _commits_itself(connection: Any) -> bool:
    if connection.connection is None:
        return bool(connection.settings_dict["AUTOCOMMIT"])
    return bool(connection.autocommit) or connection.in_atomic_block


def put_back(before: dict[str, tuple[int, bool]]) -> list[str]:
    """Roll back what was left open since `before`; returns the aliases where it was."""
    left = []
    for connection in connections.all(initialized_only=True):
        blocks, commits = before.get(connection.alias, (0, True))
        opened: list[Any] = connection.atomic_blocks[blocks:]
        for block in reversed(opened):
            block.__exit__(RuntimeError, RuntimeError("left open"), None)
        if commits and not _commits_itself(connection):
            connection.rollback()
            connection.set_autocommit(True)
            opened.append(connection)
        if opened:
            left.append(connection.alias)
    return left
