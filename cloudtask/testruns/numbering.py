"""Rows that a run made, under names that are the same in each run.

A rolled back run leaves its mark on sequences: the rows of the next one get other
primary keys. Before two runs are compared, new rows are numbered by what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models

from cloudtask.testruns.rows import Contents, Row, Table

Names = Mapping[tuple[Table, Any], "New"]


@dataclass(frozen=True, order=True)
class New:
    """The primary key of a new row."""

    number: int

    def __repr__(self) -> str:
        return f"<new {self.number}>"


def renumbered(before: Contents, after: Contents) -> Contents:
    """`after`, with new rows under numbers in place of their primary keys."""
    names = {
        (table, pk): New(number)
        for table, rows in after.tables.items()
        for number, pk in enumerate(_new(before, table, rows), 1)
    }
    return Contents(
        {
            table: {
                names.get((table, pk), pk): _renamed(table, row, names)
                for pk, row in rows.items()
            }
            for table, rows in after.tables.items()
        }
    )


def _new(before: Contents, table: Table, rows: Mapping[Any, Row]) -> list[Any]:
    """The primary keys of new rows, ordered by what the rows hold besides keys."""
    known = before.tables.get(table, {})
    keys = _keys(table[1])

    def content(pk: Any) -> tuple[str, str]:
        row = rows[pk]
        return repr({name: row[name] for name in row if name not in keys}), str(pk)

    return sorted((pk for pk in rows if pk not in known), key=content)


def _keys(model: type[models.Model]) -> dict[str, Any]:
    """The columns that hold primary keys, each with the model it is a key of."""
    keys: dict[str, Any] = {}
    for column in model._meta.local_concrete_fields:
        if column.primary_key:
            keys[column.attname] = model
        if column.remote_field is not None:
            keys[column.attname] = column.remote_field.model._meta.concrete_model
    return keys


def _renamed(table: Table, row: Row, names: Names) -> Row:
    alias, model = table
    keys = _keys(model)
    return {
        name: names.get(((alias, keys[name]), value), value) if name in keys else value
        for name, value in row.items()
    }
