"""A database without the tables of the library: errors say how to make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections, transaction

from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import FailedTask, IterationRun, OutboxMessage, UniqueKey
from cloudtask.stores import store
from cloudtask.stores.failed import FailedFilter
from cloudtask.stores.transactions import translated
from tests.durability import tasks

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("committed", "world"),
]


@contextmanager
def without(*models: Any, alias: str = "default") -> Iterator[None]:
    """The tables of `models` have other names for the time of the block."""
    tables = [model._meta.db_table for model in models]
    for table in tables:
        _rename(table, f"gone_{table[10:]}", alias)
    try:
        yield
    finally:
        for table in tables:
            _rename(f"gone_{table[10:]}", table, alias)


def _rename(old: str, new: str, alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        ("default", "manage.py migrate cloudtask"),
        ("other", "manage.py migrate cloudtask --database=other"),
    ],
)
@pytest.mark.parametrize(
    ("model", "options"), [(OutboxMessage, {}), (UniqueKey, {"unique": True})]
)
def test_a_call_whose_table_is_missing_says_how_to_make_it(
    model: Any, options: dict[str, Any], alias: str, command: str
) -> None:
    call = tasks.plain.using(database=alias, **options)

    with (
        without(model, alias=alias),
        pytest.raises(EnqueueUnavailable) as caught,
        transaction.atomic(alias),
    ):
        call.defer("x")

    assert model._meta.db_table in str(caught.value)
    assert str(caught.value).endswith(f". Run `{command}`.")


@pytest.mark.parametrize(
    "command",
    [
        "cloudtask_status",
        "cloudtask_failed list",
        "cloudtask_iterations list",
        "cloudtask_prune",
        "cloudtask_relay",
    ],
)
def test_a_command_ends_with_what_to_run(command: str) -> None:
    with (
        without(IterationRun, FailedTask),
        pytest.raises(
            CommandError, match=r"Run `manage\.py migrate cloudtask`\.$"
        ) as e,
    ):
        call_command(*command.split())

    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "command",
    [
        "cloudtask_relay",
        "cloudtask_relay --parked",
        "cloudtask_relay --release",
        "cloudtask_outbox list",
        "cloudtask_outbox release --all",
        "cloudtask_outbox release --error no",
        "cloudtask_outbox discard k --yes",
    ],
)
def test_a_command_for_one_database_ends_with_what_to_run_there(command: str) -> None:
    with (
        without(OutboxMessage, alias="other"),
        pytest.raises(
            CommandError,
            match=r"Run `manage\.py migrate cloudtask --database=other`\.$",
        ) as e,
    ):
        call_command(*command.split(), database=_given(command, "other"))

    assert "\n" not in str(e.value)


def _given(command: str, alias: str) -> Any:
    return [alias] if "relay" in command else alias


def test_a_relay_of_one_database_without_the_table_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with without(OutboxMessage, alias="other"), pytest.raises(CommandError):
        call_command("cloudtask_relay", database=["other", "default"])

    assert "The outbox of 'other' was not relayed" in caplog.text
    assert caplog.text.count("migrate cloudtask --database=other") == 1


def test_a_store_says_how_to_make_its_tables() -> None:
    with (
        without(FailedTask),
        pytest.raises(EnqueueUnavailable, match=r"Run `manage\.py migrate cloudtask`"),
    ):
        store().count_failed(FailedFilter())


def test_a_missing_table_of_the_project_is_told_as_it_is() -> None:
    with (
        pytest.raises(
            (DatabaseError, EnqueueUnavailable), match="shop_order"
        ) as caught,
        translated("Looking", "default"),
        connections["default"].cursor() as cursor,
    ):
        cursor.execute("SELECT * FROM shop_order")

    assert "migrate" not in str(caught.value)
