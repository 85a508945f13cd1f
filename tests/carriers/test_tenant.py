"""A tenant for each schema of PostgreSQL, chosen by `search_path`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from cloudtask import Retry, current, task
from cloudtask.testing import run_queued
from tests.carriers.context import see
from tests.testapp.models import Author

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.skipif(
        "connection.vendor != 'postgresql'", reason="needs schemas of PostgreSQL"
    ),
]

TENANTS = ("red", "blue")


def search_path() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW search_path")
        return str(cursor.fetchone()[0])


def choose(path: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('search_path', %s, false)", [path])


class Schema:
    """The carrier that docs/howto/context.md shows."""

    name = "schema"

    def capture(self) -> dict[str, str]:
        return {"path": search_path()}

    @contextmanager
    def restore(self, carried: Any, context: Any) -> Iterator[None]:
        before = search_path()
        choose(carried["path"])
        try:
            yield
        finally:
            choose(before)


@pytest.fixture(autouse=True)
def _schemas() -> Iterator[None]:
    """A table of authors for each tenant; those of the library are in `public`."""
    table = Author._meta.db_table
    before = search_path()
    with connection.cursor() as cursor:
        for name in TENANTS:
            cursor.execute(f"CREATE SCHEMA {name}")
            cursor.execute(
                f"CREATE TABLE {name}.{table} (LIKE public.{table} INCLUDING ALL)"
            )
    yield
    choose(before)


def authors_of(tenant: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name FROM {tenant}.{Author._meta.db_table} ORDER BY 1")
        return [name for (name,) in cursor.fetchall()]


def in_(tenant: str) -> None:
    choose(f"{tenant}, public")


@task
def add(name: str) -> None:
    Author.objects.create(name=name)


@task
def add_at_third_attempt() -> None:
    attempt = current(required=True).attempt
    Author.objects.create(name=f"attempt {attempt}")
    if attempt < 3:
        raise Retry(delay=1)


@task
def rename(author: Author) -> None:
    Author.objects.filter(pk=author.pk).update(name=author.name.upper())


@task
def report() -> None:
    Author.objects.create(name="finalized")


def everything_in(tenant: str) -> None:
    in_(tenant)
    Author.objects.create(name=f"a row of {tenant}")
    add.defer(f"a task of {tenant}")
    add_at_third_attempt.defer()
    rename.iterate(
        Author.objects.filter(name__startswith="a row"), finalize=report, shards=2
    )


def test_tasks_retries_rows_and_finalize_write_to_the_schema_of_their_tenant(carriers):
    carriers(f"{__name__}.Schema")
    for tenant in TENANTS:
        everything_in(tenant)
    choose("public")
    run_queued()
    assert search_path() == "public"
    for tenant in TENANTS:
        assert authors_of(tenant) == sorted(
            [
                f"A ROW OF {tenant.upper()}",
                f"a task of {tenant}",
                "attempt 1",
                "attempt 2",
                "attempt 3",
                "finalized",
            ],
            key=lambda name: name,
        )
    assert authors_of("public") == []


def test_without_the_carrier_they_write_elsewhere(carriers):
    carriers()
    for tenant in TENANTS:
        everything_in(tenant)
    choose("public")
    run_queued()
    assert authors_of("red") == ["a row of red"]
    assert len(authors_of("public")) == 10


def test_a_task_without_a_tenant_does_not_run(carriers):
    carriers()
    see.using(max_attempts=1).defer()
    carriers(f"{__name__}.Schema")
    ran = run_queued(errors="collect")
    assert isinstance(ran.attempts[0].error, TypeError)
