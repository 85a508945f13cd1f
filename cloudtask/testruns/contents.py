"""Reads all rows of the databases, and compares the rows before and after a run.

Rows that a test run inserted are compared without their primary keys. A rollback does
not reset sequences, so the next run's rows get other keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import connections, models, router
from django.db.models.functions import Now

Values = dict[str, Any]  # of a row, by column
Table = tuple[str, type[models.Model]]  # alias and model
LISTED = 5  # differences that a message names


def usable_aliases() -> list[str]:
    """The aliases of the databases that the running test has opened and may use."""
    return [alias for alias in connections if _is_usable(connections[alias])]


def _is_usable(connection: Any) -> bool:
    if connection.connection is None:
        return False
    try:
        with connection.cursor():
            return True
    except Exception:  # noqa: BLE001  each test framework forbids it in its own way
        return False


@dataclass(frozen=True)
class Contents:
    """The rows of all tables of the project, by alias, model and primary key.

    The library's own tables are left out. So are columns that are set to the current
    time on their own.
    """

    tables: Mapping[Table, Mapping[Any, Values]] = field(default_factory=dict)

    def differences(self, other: Contents) -> list[str]:
        """The differences of `other`, one line for each row."""
        found: list[str] = []
        for key in [*self.tables, *(k for k in other.tables if k not in self.tables)]:
            before, after = self.tables.get(key, {}), other.tables.get(key, {})
            if before != after:
                found += _table_differences(key, before, after)
        if len(found) > LISTED:
            return [*found[:LISTED], f"... and {len(found) - LISTED} more"]
        return found


def contents(aliases: list[str]) -> Contents:
    """The current contents of the databases."""
    tables: dict[Table, Mapping[Any, Values]] = {}
    for alias in aliases:
        known = set(connections[alias].introspection.table_names())
        for model in _models(alias):
            if model._meta.db_table in known:
                tables[alias, model] = _rows(alias, model)
    return Contents(tables)


def _models(alias: str) -> Iterator[type[models.Model]]:
    for model in apps.get_models(include_auto_created=True):
        own = model._meta.app_label == "cloudtask" or model._meta.proxy
        if not own and router.allow_migrate_model(alias, model):
            yield model


def _rows(alias: str, model: type[models.Model]) -> dict[Any, Values]:
    names = [
        f.attname for f in model._meta.local_concrete_fields if not _sets_itself(f)
    ]
    rows: Any = models.QuerySet(model, using=alias).order_by().values("pk", *names)
    return {row.pop("pk"): row for row in rows}


def _sets_itself(column: Any) -> bool:
    return (
        getattr(column, "auto_now", False)
        or getattr(column, "auto_now_add", False)
        or isinstance(getattr(column, "db_default", None), Now)
    )


def _table_differences(
    key: Table, before: Mapping[Any, Values], after: Mapping[Any, Values]
) -> Iterator[str]:
    alias, model = key
    where = "" if alias == "default" else f" in {alias!r}"
    name = f"{model._meta.label}{where}"
    for pk, row in before.items():
        if pk not in after:
            yield f"{name} pk={pk!r}: is gone"
        elif row != after[pk]:
            yield f"{name} pk={pk!r}: {_changes(row, after[pk])}"
    for pk, row in after.items():
        if pk not in before:
            values = ", ".join(f"{k}={v!r}" for k, v in row.items())
            yield f"{name} pk={pk!r}: is new ({values})"


def _changes(before: Values, after: Values) -> str:
    return ", ".join(
        f"{name} {before[name]!r} -> {after[name]!r}"
        for name in before
        if before[name] != after.get(name)
    )


Names = Mapping[tuple[Table, Any], "New"]


@dataclass(frozen=True, order=True)
class New:
    """The primary key of a new row."""

    number: int

    def __repr__(self) -> str:
        return f"<new {self.number}>"


def renumbered(before: Contents, after: Contents) -> Contents:
    """`after`, in which numbers replace the primary keys of new rows."""
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


def _new(before: Contents, table: Table, rows: Mapping[Any, Values]) -> list[Any]:
    """The primary keys of new rows, ordered by the other values of the rows."""
    known = before.tables.get(table, {})
    keys = _keys(table[1])

    def content(pk: Any) -> tuple[str, str]:
        row = rows[pk]
        return repr({name: row[name] for name in row if name not in keys}), str(pk)

    return sorted((pk for pk in rows if pk not in known), key=content)


def _keys(model: type[models.Model]) -> dict[str, Any]:
    """The columns that hold primary keys, each with the model of the key."""
    keys: dict[str, Any] = {}
    for column in model._meta.local_concrete_fields:
        if column.primary_key:
            keys[column.attname] = model
        if column.remote_field is not None:
            keys[column.attname] = column.remote_field.model._meta.concrete_model
    return keys


def _renamed(table: Table, row: Values, names: Names) -> Values:
    alias, model = table
    keys = _keys(model)
    return {
        name: names.get(((alias, keys[name]), value), value) if name in keys else value
        for name, value in row.items()
    }
