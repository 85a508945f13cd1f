"""Names that rest in stores are looked up without importing what they name.

Whoever can write to the database could else have any module of the project executed.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from cloudtask import registry, stores
from cloudtask.models import FailedTask, IterationRun, OutboxMessage
from tests.dashboard import seeding
from tests.dashboard.test_pages import address, page

pytestmark = pytest.mark.django_db(databases="__all__")

MODULE = "tests.testapp.unimported"
NAME = f"{MODULE}.reached"


@pytest.fixture(autouse=True)
def _unimported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module is not imported, whatever ran before in this process."""
    known = {path: one for path, one in registry._known.items() if path != NAME}
    monkeypatch.setattr(registry, "_known", known)
    sys.modules.pop(MODULE, None)
    yield
    sys.modules.pop(MODULE, None)


@pytest.fixture(autouse=True)
def _named_everywhere() -> None:
    seeding.outbox_row("1")
    seeding.failed_call(stores.store(), "f1")
    seeding.run_of(stores.store(), 1)
    for model in (OutboxMessage, FailedTask, IterationRun):
        assert model._default_manager.update(task=NAME) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("cloudtask_tasks", "list"),
        ("cloudtask_tasks", "list", "--unknown"),
        ("cloudtask_doctor", "--only", "names"),
        ("cloudtask_failed", "list"),
        ("cloudtask_iterations", "list"),
        ("cloudtask_outbox", "list"),
        ("cloudtask_status",),
    ],
    ids=" ".join,
)
def test_a_command_does_not_import_what_a_row_names(arguments: tuple[str, ...]) -> None:
    out = io.StringIO()

    with suppress(SystemExit):
        call_command(*arguments, stdout=out)

    assert out.getvalue()
    assert MODULE not in sys.modules


@pytest.mark.parametrize("name", ["task", "failed", "iteration", "outbox", "overview"])
def test_a_page_does_not_import_what_a_row_names(name: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))

    page(client, address(name))

    assert MODULE not in sys.modules


def test_the_page_of_a_failed_task_does_not_import_what_its_row_names() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))

    page(client, address("failed", "f1"))

    assert MODULE not in sys.modules
