"""A range of keys. The database does all comparing and ordering: Python's idea of the
order of strings or UUIDs may be another.

Keys of several columns are compared in the form that each database can answer from the
index of the key. Of 600,000 rows a page of 500 near the end takes, in milliseconds:

| | `(a, b) > (1, 2)` | `a > 1 OR (a = 1 AND b > 2)` |
|---|---|---|
| MariaDB | 51, a scan | 0.4 |
| PostgreSQL | 0.1 | 43 |
| SQLite | 1.2 | 22 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.models import QuerySet

ABOVE, UP_TO = ">", "<="


@dataclass(frozen=True, slots=True)
class Bounds:
    """The keys above `low`, up to and with `high`; None is open."""

    low: Any = None
    high: Any = None

    def of(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of `queryset` within, by key."""
        conditions = [
            _condition(queryset, sign, key)
            for sign, key in ((ABOVE, self.low), (UP_TO, self.high))
            if key is not None  # 0 and "" are keys like any other
        ]
        return queryset.filter(*conditions).order_by("pk")


def _condition(queryset: QuerySet[Any], sign: str, key: Any) -> Any:
    from django.db import connections
    from django.db.models import Q

    fields = queryset.model._meta.pk_fields
    connection = connections[queryset.db]
    if len(fields) > 1 and connection.vendor == "mysql":
        return _one_by_one([field.attname for field in fields], sign, key)
    has_row_values = connection.features.supports_tuple_lookups  # SQLite: from Django 6
    if len(fields) > 1 and connection.vendor == "sqlite" and not has_row_values:
        return _row_values(fields, sign, key)
    return Q(**{f"pk__{'gt' if sign is ABOVE else 'lte'}": key})


def _one_by_one(names: list[str], sign: str, key: Any) -> Any:
    """The first column decides, or where it is equal, the next."""
    from django.db.models import Q

    name, value = names[0], key[0]
    if len(names) == 1:
        return Q(**{f"{name}__{'gt' if sign is ABOVE else 'lte'}": value})
    beyond = Q(**{f"{name}__{'gt' if sign is ABOVE else 'lt'}": value})
    return beyond | Q(_one_by_one(names[1:], sign, key[1:]), **{name: value})


def _row_values(fields: Any, sign: str, key: Any) -> Any:
    from django.db.models import BooleanField, F, Func, Value

    columns = [F(field.attname) for field in fields]
    values = [
        Value(value, output_field=field)
        for field, value in zip(fields, key, strict=True)
    ]
    row = {"template": "(%(expressions)s)", "arg_joiner": ", "}
    return Func(
        Func(*columns, **row, output_field=fields[0]),
        Func(*values, **row, output_field=fields[0]),
        template="%(expressions)s",
        arg_joiner=f" {sign} ",
        output_field=BooleanField(),
    )
