"""Every column of every table is written by someone else, and all readers read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.test import override_settings

from cloudtask import iteration
from cloudtask.models import IterationChunk, IterationRun, OutboxMessage
from cloudtask.stores.database import records
from cloudtask.transports import memory
from tests.tampering import tasks
from tests.tampering.odd import ODD
from tests.tampering.site import TAGS, Site, prepared, undone
from tests.tampering.values import hostile, is_shown

pytestmark = pytest.mark.django_db(databases=["default", "other"])

TABLES: list[Any] = [
    model
    for model in apps.get_app_config("cloudtask").get_models()
    if model._meta.managed
]
# The bytes of a description in the row of its run; others lie in rows of their own.
USUAL, TINY = records.CHUNK, 200
COLUMNS = [
    (TINY if model is IterationChunk else USUAL, model, field.attname)
    for model in TABLES
    for field in model._meta.concrete_fields
]


def list_rows() -> set[tuple[Any, Any]]:
    return {
        (model, pk)
        for model in TABLES
        for pk in model.objects.values_list("pk", flat=True)
    }


@pytest.fixture(scope="module")
def _database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def site(_database: None, request: pytest.FixtureRequest) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", request.param)
        with prepared(list_rows) as site:
            yield site


def row_of(site: Site, model: Any) -> Any:
    [*found] = sorted(pk for one, pk in site.rows["ours"] if one is model)
    assert found, f"no row of {model.__name__}"
    return model.objects.get(pk=found[0])


def neighbours(row: Any, name: str) -> list[Any]:
    """Values of the same column in other rows, and of other columns in the row."""
    value = plain(getattr(row, name))
    others = type(row).objects.exclude(pk=row.pk).values_list(name, flat=True)
    beside = (plain(getattr(row, f.attname)) for f in row._meta.concrete_fields)
    return [*map(plain, others), *(one for one in beside if type(one) is type(value))]


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.exhaustive(sample=12)
@pytest.mark.parametrize(("site", "model", "name"), COLUMNS, indirect=["site"])
def test_what_someone_writes_to_a_column_is_not_trusted(
    site: Site, one_in: Any, model: Any, name: str
) -> None:
    row = row_of(site, model)
    values = hostile(plain(getattr(row, name)), neighbours(row, name))
    for value in one_in(10, [None, *values]):
        with undone(site):
            try:
                with transaction.atomic():
                    model.objects.filter(pk=row.pk).update(**{name: value})
            except (DatabaseError, ValueError, OverflowError):
                continue  # the database refuses it
            site.read_all(lists=is_shown(value))
            site.check()
            site.check_theirs()


@pytest.mark.parametrize("site", [USUAL, TINY], indirect=True)
def test_a_site_that_nobody_wrote_to_goes_on(site: Site) -> None:
    with undone(site):
        site.read_all()
        site.check()
        site.check_theirs()
        assert ("finish", "ours") in tasks.called
        assert site.problems == []


usual = pytest.mark.parametrize("site", [USUAL], indirect=True)
UNKNOWN = "signed with a key that is not known here"


@usual
def test_what_an_older_key_sealed_is_read(site: Site) -> None:
    keys = {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": [settings.SECRET_KEY]}
    with undone(site), override_settings(**keys):
        site.read_all()
        site.check()
        site.check_theirs()
        assert site.problems == []


@usual
def test_what_an_unknown_key_sealed_is_refused_with_a_sentence(site: Site) -> None:
    with undone(site), override_settings(SECRET_KEY="new"):
        memory.queue().clear()  # the handler refuses those: tests/test_views.py
        site.read_all()
        site.check()

        new = {name for name, _ in tasks.called[len(site.called) :]}
        assert new <= {"single", "due"}  # what was enqueued with the new key
        assert site.told == []
        assert sum(UNKNOWN in problem for problem in site.problems) >= 2 * len(TAGS)
        parked = OutboxMessage.objects.filter(state=OutboxMessage.State.PARKED)
        errors = [*parked.values_list("error", flat=True)]
        errors += [iteration.get(run.id).error for run in site.runs.values()]
        assert len(errors) > 2 * len(TAGS)
        assert all(UNKNOWN in error for error in errors), errors


# Values that a column can't hold


# What a reason calls the bytes of a description in rows of their own.
NAMED = {IterationChunk: "description"}
# SQLite's driver reads each value of such a column, but 1, as False.
FLAGS = {(IterationRun, "is_planned"): "rest"}


def write(row: Any, name: str, value: Any) -> bool:
    """Whether the database took `value` for a column of `row`, as it is."""
    quote, vendor = connection.ops.quote_name, connection.vendor
    if vendor == "mysql" and value == float("inf"):
        return False  # the driver refuses it, with an error of its own
    table, key = quote(row._meta.db_table), quote(row._meta.pk.column)
    line = f"UPDATE {table} SET {quote(name)} = %s WHERE {key} = %s"
    if isinstance(value, tuple):
        line, value = line.replace("%s", value[0], 1), value[1]
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if vendor == "sqlite":
                cursor.execute("PRAGMA ignore_check_constraints = ON")
            cursor.execute(line, [value, row.pk])
    except (DatabaseError, ValueError, OverflowError):
        return False
    finally:
        if vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA ignore_check_constraints = OFF")
    return True


@pytest.mark.exhaustive(sample=12)
@pytest.mark.parametrize(("site", "model", "name"), COLUMNS, indirect=["site"])
def test_a_value_that_a_column_can_not_hold_stops_nothing_else(
    site: Site, one_in: Any, model: Any, name: str
) -> None:
    row = row_of(site, model)
    column = next(f.column for f in model._meta.concrete_fields if f.attname == name)
    problems = []
    for value in one_in(6, ODD):
        with undone(site):
            if column == "id" and value == 2**63 - 1:
                continue  # SQLite: a table whose ids are used up takes no row
            if not write(row, column, value):
                continue
            site.read_all()
            try:
                site.check()
                site.check_theirs()
                site.check_ours(
                    NAMED.get(model, column), FLAGS.get((model, name), column)
                )
            except AssertionError as error:
                problems.append(f"{value!r:.80}: {error}"[:3000])
    assert not problems, "\n".join(problems)
