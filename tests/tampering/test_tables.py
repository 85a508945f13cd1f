"""Every column of every table is written by someone else, and all readers read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, transaction

from cloudtask.models import IterationChunk
from cloudtask.stores.database import records
from tests.tampering import tasks
from tests.tampering.site import Site, prepared, undone
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
