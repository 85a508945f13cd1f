"""Fixtures: a Datastore without an index.yaml, and the store in it.

A test module that wants them says
`pytest_plugins = ["tests.stores.datastore_fixtures"]`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from cloudtask.stores.datastore import DatastoreStore
from tests.support.datastore import DatastoreServer

VARIABLE = "DATASTORE_EMULATOR_HOST"


@pytest.fixture(scope="module")
def indexless_datastore() -> Iterator[DatastoreServer | None]:
    """The server of this module's tests; None when the variable names another."""
    if os.environ.get(VARIABLE):
        yield None
        return
    with DatastoreServer(composite_indexes=False) as server:
        os.environ[VARIABLE] = server.address
        try:
            yield server
        finally:
            del os.environ[VARIABLE]


@pytest.fixture
def faults(indexless_datastore: DatastoreServer | None) -> Iterator[DatastoreServer]:
    """The server, for faults and counts; the test is skipped without it."""
    if indexless_datastore is None:
        pytest.skip(f"{VARIABLE} names a server that takes no faults")
    yield indexless_datastore
    indexless_datastore.reset()


@pytest.fixture
def datastore_store(indexless_datastore: DatastoreServer | None) -> DatastoreStore:
    """The store, in an empty namespace. It makes the calls that it makes in production,
    and no pauses; beside a real emulator it does as it does beside one."""
    options = {"PROJECT": "test-project", "NAMESPACE": uuid.uuid4().hex}
    if indexless_datastore is None:
        return DatastoreStore(options)
    return DatastoreStore(options, sleep=lambda seconds: None, begins_early=False)
