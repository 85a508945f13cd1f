"""Statements that are compiled once: each delivery of some kind runs the same.

Django's compiler takes longer for one than a server near by takes to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.models import QuerySet
from django.db.models.sql import DeleteQuery


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its values, some of which stand for those of each run."""

    sql: str
    values: tuple[Any, ...]

    def first(self, alias: str, given: Mapping[Any, Any]) -> tuple[Any, ...] | None:
        """The first row of a SELECT, as the driver returns it. `given` has the values
        of this run, by those that stand for them."""
        with connections[alias].cursor() as cursor:
            cursor.execute(self.sql, self._with(given))
            found: tuple[Any, ...] | None = cursor.fetchone()
        return found

    def run(self, alias: str, given: Mapping[Any, Any]) -> None:
        """Run a statement that returns no rows; `given` is as for `first`."""
        with connections[alias].cursor() as cursor:
            cursor.execute(self.sql, self._with(given))

    def _with(self, given: Mapping[Any, Any]) -> list[Any]:
        return [given.get(value, value) for value in self.values]


def selecting(rows: QuerySet[Any, Any]) -> Statement:
    """The SELECT of `rows` on their database."""
    return _compiled(rows.query, rows.db)


def deleting(rows: QuerySet[Any, Any]) -> Statement:
    """The DELETE of `rows` on their database, and of nothing that refers to them."""
    query: Any = rows.query.chain(DeleteQuery)
    return _compiled(query, rows.db)


def _compiled(query: Any, alias: str) -> Statement:
    sql, values = query.get_compiler(alias).as_sql()
    return Statement(sql, tuple(values))
