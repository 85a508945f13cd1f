from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stores.datastore_fixtures import empty_store
from tests.workflows import tasks

TRUSTED = {"TRUSTED_MODULES": ["tests.workflows"]}


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    for notes in (tasks.seen, tasks.broken, tasks.failures):
        notes.clear()
    yield
    tasks.broken.clear()


@pytest.fixture(autouse=True)
def _trusted(settings: Any) -> None:
    settings.CLOUDTASK = TRUSTED


@pytest.fixture(params=["database", "datastore"])
def anywhere(request: Any, db: None, settings: Any, _trusted: None) -> str:
    """Runs the test with each store."""
    if request.param == "datastore":
        request.getfixturevalue("datastore_at")("datastore")
        settings.CLOUDTASK = {**TRUSTED, "STORE": empty_store()}
    return str(request.param)
