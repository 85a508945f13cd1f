from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.durability.database import committing
from tests.receipts import tasks
from tests.stores.datastore_fixtures import KINDS, empty_store


@pytest.fixture(params=["database", *KINDS])
def anywhere(request: Any, db: None, settings: Any) -> str:
    """Runs the test with each store, and with Datastore in both emulators."""
    if request.param == "database":
        return "database"
    request.getfixturevalue("datastore_at")(request.param)
    settings.CLOUDTASK = {"STORE": empty_store()}
    return "datastore"


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """No test sees what another has told the tasks."""
    tasks.asked.clear()
    tasks.broken.clear()
    yield
    tasks.asked.clear()
    tasks.broken.clear()


@pytest.fixture
def commits(db: None, tmp_path: Path) -> Iterator[None]:
    with committing(tmp_path):
        yield
