from __future__ import annotations

from typing import Any

import pytest

from tests.stores.datastore_fixtures import KINDS, empty_store


@pytest.fixture(params=["database", *KINDS])
def anywhere(request: Any, db: None, settings: Any) -> str:
    """Runs the test with each store, and with Datastore in both emulators."""
    if request.param == "database":
        return "database"
    request.getfixturevalue("datastore_at")(request.param)
    settings.CLOUDTASK = {"STORE": empty_store()}
    return "datastore"
