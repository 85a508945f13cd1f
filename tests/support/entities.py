"""A database of Django that is Datastore, by django-gcloud-connectors.

Its package needs Django 5.2, on Python 3.11; elsewhere tests that want it are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from cloudtask.iteration.planner.estimates import ENGINE
from tests.stores.datastore_fixtures import empty_place
from tests.support.proxy import DatastoreProxy

ALIAS = "entities"


@pytest.fixture
def entities(faults: DatastoreProxy, db: None, tmp_path: Path) -> Iterator[Any]:
    """The connection to the database `entities`, which is empty, in each emulator."""
    pytest.importorskip("gcloudc", reason="it needs Django 5.2, on Python 3.11")
    indexes = str(tmp_path / "djangaeidx.yaml")
    ours = {"ENGINE": ENGINE, **empty_place(), "INDEXES_FILE": indexes}
    with known(ALIAS, ours):
        connection: Any = connections[ALIAS]
        # Django's test cases refuse what is not among their own databases, in which
        # they open a transaction.
        refusal = connection.connect
        connection.connect = getattr(refusal, "wrapped", refusal)
        connection.ensure_connection = lambda: (
            connection.connection or connection.connect()
        )
        connection.ensure_connection()
        yield connection
        connection.close()


@contextmanager
def known(alias: str, settings: dict[str, Any]) -> Iterator[None]:
    """Let DATABASES have `alias` in the block."""
    all_of_them = connections.configure_settings({"default": {}, alias: settings})
    connections.settings[alias] = all_of_them[alias]
    connections[alias]  # so that there is one to delete
    try:
        yield
    finally:
        del connections[alias]
        del connections.settings[alias]
