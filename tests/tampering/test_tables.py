"""Every column of every table is written by someone else, and all readers read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, transaction
from django.test import override_settings

from cloudtask.models import WorkflowGroup, WorkflowMember
from tests.support import clock
from tests.tampering import tasks
from tests.tampering.site import SETTINGS, Site, undone
from tests.tampering.values import hostile

pytestmark = pytest.mark.django_db

# tests/workflows writes to the values of groups.
ELSEWHERE = {WorkflowGroup, WorkflowMember}
TABLES: list[Any] = [
    m
    for m in apps.get_app_config("cloudtask").get_models()
    if m._meta.managed and m not in ELSEWHERE
]
COLUMNS = [(model, f.attname) for model in TABLES for f in model._meta.concrete_fields]


def list_rows() -> set[tuple[Any, Any]]:
    return {
        (model, pk)
        for model in TABLES
        for pk in model.objects.values_list("pk", flat=True)
    }


@pytest.fixture
def site() -> Iterator[Site]:
    with (
        override_settings(CLOUDTASK=SETTINGS),
        clock.virtual(),
    ):
        tasks.called.clear()
        yield Site(list_rows).make()
        tasks.called.clear()


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


@pytest.mark.exhaustive(sample=8)
@pytest.mark.parametrize(("model", "name"), COLUMNS)
def test_what_someone_writes_to_a_column_is_not_trusted(
    site: Site, model: Any, name: str
) -> None:
    row = row_of(site, model)
    values = hostile(plain(getattr(row, name)), neighbours(row, name))
    for value in [None, *values]:
        with undone(site):
            try:
                with transaction.atomic():
                    model.objects.filter(pk=row.pk).update(**{name: value})
            except (DatabaseError, ValueError, OverflowError):
                continue  # the database refuses it
            site.read_all()
            site.check()
            site.check_theirs()


def test_a_site_that_nobody_wrote_to_goes_on(site: Site) -> None:
    site.read_all()
    site.check()
    site.check_theirs()
    assert ("finish", "ours") in tasks.called
    assert site.problems == []
