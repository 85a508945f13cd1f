"""Reads rows of which some may hold what does not fit: see `cloudtask.stores.fitting`.

SQLite holds any value in any column. Other servers refuse most of them, but not all:
for example not a time beyond the years of Python.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from django.apps import apps
from django.db import DataError, OperationalError, connections, models
from django.db.models import BinaryField, Model, QuerySet
from django.db.models.functions import Cast

from cloudtask.envelope import Place
from cloudtask.stores.fitting import (
    LARGE,
    NEUTRAL,
    SMALL,
    UNREAD,
    Rule,
    Rules,
    Unreadable,
)

T = TypeVar("T")

# By the class of the field; the first that is a base of it counts.
_KINDS: tuple[tuple[type[models.Field[Any, Any]], type, int], ...] = (
    (models.BooleanField, bool, LARGE),
    (models.BigAutoField, int, 2**63 - 1),
    (models.BigIntegerField, int, LARGE),
    (models.IntegerField, int, SMALL),
    (models.FloatField, float, LARGE),
    (models.BinaryField, bytes, LARGE),
    (models.JSONField, list, LARGE),
    (models.DateTimeField, datetime, LARGE),
    (models.Field, str, LARGE),
)
# The states that lists show in the place of one that does not exist.
_STATES = {
    "IterationRun": "failed",
    "IterationShard": "waiting",
    "IterationFailure": "failed",
    "OutboxMessage": "parked",
    "TaskResultRow": "FAILED",
}
_RESULTS = frozenset({"READY", "RUNNING", "FAILED", "SUCCESSFUL"})


@cache
def rules_of(model: Any) -> Rules:
    """The rules of the columns of a table, by the names of attributes."""
    return Rules(_rule(model, field) for field in model._meta.concrete_fields)


def _rule(model: type[Model], field: Any) -> Rule:
    column = field.target_field if field.remote_field else field
    kind, most = next((k, m) for base, k, m in _KINDS if isinstance(column, base))
    choices = frozenset(value for value, _ in field.choices or ())
    if field.attname == "status":
        choices = _RESULTS
    return Rule(
        name=field.attname,
        kind=kind,
        neutral=_neutral(model, field, kind, is_state=bool(choices)),
        is_null=field.null,
        most=column.max_length or most if kind is str else most,
        choices=choices,
    )


def _neutral(model: type[Model], field: Any, kind: type, *, is_state: bool) -> Any:
    if is_state:
        return _STATES[model.__name__]
    return None if field.null else NEUTRAL[kind]


def place_of(row: Model, name: str) -> Place:
    """The place of a column, as sentences name it."""
    kind = type(row).__name__
    fields = type(row)._meta.concrete_fields
    column = next(str(f.column) for f in fields if f.attname == name)
    there = row.__dict__
    if kind.startswith("Iteration"):
        return ("iteration", *_in_run(kind, there), column)
    return _NOUNS[kind], f"{row.pk}", column


def _in_run(kind: str, there: dict[str, Any]) -> Place:
    run = f"{there.get('run_id', there.get('id'))}"
    if kind == "IterationShard":
        return run, f"shard {there.get('index')}"
    if kind == "IterationFailure":
        return run, f"row {there.get('digest')}"
    return (run,)


_NOUNS = {
    "CallMark": "mark",
    "Execution": "execution",
    "FailedTask": "failed",
    "LateStart": "late start",
    "OutboxMessage": "outbox",
    "Payload": "payload",
    "PayloadChunk": "payload chunk",
    "ScheduleRow": "schedule",
    "TaskResultRow": "result",
    "UniqueKey": "unique key",
    "UpkeepNote": "upkeep",
    "WorkflowGroup": "group",
    "WorkflowMember": "member",
}


def check(row: Model) -> None:
    """Raise Unreadable if a value of the row does not fit."""
    name = rules_of(type(row)).misfit(row.__dict__)
    if name is not None:
        raise Unreadable(place_of(row, name))


def misfits(row: Model) -> dict[str, Any]:
    """The values of the row that don't fit: neutral ones for them, by their names."""
    return rules_of(type(row)).misfits(row.__dict__)


def mend(row: Model) -> str:
    """Put neutral values in the place of those that do not fit.

    Returns why: a sentence about the first, or "" if all fit.
    """
    rules = rules_of(type(row))
    name = rules.misfit(row.__dict__)
    if name is None:
        return ""
    why = str(Unreadable(place_of(row, name)))
    row.__dict__.update(misfits(row))
    return why


# Rows whose values the driver, or Django, can't convert


_REFUSED = (ValueError, TypeError, AttributeError, ArithmeticError, DataError)


def fetched(rows: QuerySet[Any]) -> list[Any]:
    """The rows of a query. A value that can't be converted is UNREAD in its row."""
    return converted(lambda: list(rows), lambda: _one_by_one(rows))


def converted(read: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """The value of `read`, or of `otherwise` if a value can't be converted."""
    try:
        return read()
    except _REFUSED:
        return otherwise()
    except OperationalError as error:
        # SQLite: a text that is no UTF-8.
        if "Could not decode" not in str(error):
            raise
        return otherwise()


def _one_by_one(rows: QuerySet[Any]) -> list[Any]:
    alone = rows.all()
    alone.query.clear_limits()
    alone = alone.order_by()
    return [_row(alone, key) for key in _keys(rows)]


def _keys(rows: QuerySet[Any]) -> list[Any]:
    def as_bytes() -> list[Any]:
        raw = rows.annotate(raw_key=Cast("pk", BinaryField()))
        return [_text(key) for key in raw.values_list("raw_key", flat=True)]

    return converted(lambda: list(rows.values_list("pk", flat=True)), as_bytes)


def _text(key: bytes) -> Any:
    try:
        return bytes(key).decode()
    except UnicodeDecodeError:
        return bytes(key)


def _row(rows: QuerySet[Any], key: Any) -> Any:
    model, alone = rows.model, rows.filter(pk=key)
    names = [field.attname for field in model._meta.concrete_fields]
    pk = model._meta.pk.attname
    values = {name: key if name == pk else _value(alone, name) for name in names}
    row = model.from_db(rows.db, names, [values[name] for name in names])
    for name in rows.query.annotations:
        setattr(row, name, _value(alone, name))
    return row


def _value(rows: QuerySet[Any], name: str) -> Any:
    values = rows.values_list(name, flat=True)[:1]
    return converted(lambda: next(iter(values), UNREAD), lambda: UNREAD)


def unreadable_in(alias: str, limit: int) -> list[str]:
    """A sentence about each row that can't be read, among up to `limit` rows of each
    table of the database."""
    tables = connections[alias].introspection.table_names()
    ours = [
        model
        for model in apps.get_app_config("cloudtask").get_models()
        if model._meta.managed and model._meta.db_table in tables
    ]
    return [why for model in ours for why in _unreadable(model, alias, limit)]


def _unreadable(model: Any, alias: str, limit: int) -> list[str]:
    # Bytes are sealed, or parts of what is sealed, and may be large.
    large = [f.attname for f in model._meta.concrete_fields if _is_large(f)]
    rows = model.objects.using(alias).defer(*large).order_by("-pk")
    return [why for row in fetched(rows[:limit]) if (why := mend(row))]


def _is_large(field: Any) -> bool:
    return isinstance(field, models.BinaryField | models.TextField)
