"""What the database holds, to compare before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import connections, models, router
from django.db.models.functions import Now

Row = dict[str, Any]
Table = tuple[str, type[models.Model]]
LISTED = 5  # differences that a message names


def usable_aliases() -> list[str]:
    """The databases that the running test has opened and may use."""
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

    Tables of the library itself are left out, and columns that tell the time by
    themselves.
    """

    tables: Mapping[Table, Mapping[Any, Row]] = field(default_factory=dict)

    def differences(self, other: Contents) -> list[str]:
        """What `other` has otherwise, a line each."""
        found: list[str] = []
        for key in [*self.tables, *(k for k in other.tables if k not in self.tables)]:
            before, after = self.tables.get(key, {}), other.tables.get(key, {})
            if before != after:
                found += _table_differences(key, before, after)
        if len(found) > LISTED:
            return [*found[:LISTED], f"... and {len(found) - LISTED} more"]
        return found


def contents(aliases: list[str]) -> Contents:
    """What the databases hold now."""
    tables: dict[Table, Mapping[Any, Row]] = {}
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


def _rows(alias: str, model: type[models.Model]) -> dict[Any, Row]:
    names = [f.attname for f in model._meta.local_concrete_fields if not _tells_time(f)]
    rows: Any = models.QuerySet(model, using=alias).order_by().values("pk", *names)
    return {row.pop("pk"): row for row in rows}


def _tells_time(column: Any) -> bool:
    return (
        getattr(column, "auto_now", False)
        or getattr(column, "auto_now_add", False)
        or isinstance(getattr(column, "db_default", None), Now)
    )


def _table_differences(
    key: Table, before: Mapping[Any, Row], after: Mapping[Any, Row]
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


def _changes(before: Row, after: Row) -> str:
    return ", ".join(
        f"{name} {before[name]!r} -> {after[name]!r}"
        for name in before
        if before[name] != after.get(name)
    )
