from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stores.datastore_fixtures import PROJECT
from tests.workflows import tasks

DATASTORE = {"BACKEND": "cloudtask.stores.datastore.DatastoreStore"}
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
        there = {"PROJECT": PROJECT, "NAMESPACE": uuid.uuid4().hex}
        settings.CLOUDTASK = {**TRUSTED, "STORE": {**DATASTORE, **there}}
    return str(request.param)
