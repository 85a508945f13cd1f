"""pytest fixtures: a Datastore and clients of it.

A test module that wants them says
`pytest_plugins = ["tests.support.datastore.fixtures"]`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from google.cloud import datastore

from tests.support.datastore.running import MakeClient, running_datastore
from tests.support.datastore.server import DatastoreServer

PROJECT = "test-project"


@pytest.fixture(scope="module")
def datastore_at_hand() -> Iterator[DatastoreServer | None]:
    """The server of this module's tests; None when one ran before."""
    with running_datastore() as server:
        yield server


@pytest.fixture
def datastore_server(
    datastore_at_hand: DatastoreServer | None,
) -> Iterator[DatastoreServer]:
    """The server itself, for faults and counts; the test is skipped without it."""
    if datastore_at_hand is None:
        pytest.skip("DATASTORE_EMULATOR_HOST names a server that takes no faults")
    datastore_at_hand.reset()
    yield datastore_at_hand
    datastore_at_hand.reset()


@pytest.fixture
def make_datastore_client(
    datastore_at_hand: DatastoreServer | None,
) -> Iterator[MakeClient]:
    """Makes clients, each with a namespace of its own unless one is given."""
    with ExitStack() as stack:

        def make(**options: str) -> datastore.Client:
            options.setdefault("project", PROJECT)
            options.setdefault("namespace", uuid.uuid4().hex)
            client = datastore.Client(**options)
            stack.callback(client._datastore_api.transport.close)
            return client

        yield make


@pytest.fixture
def datastore_client(make_datastore_client: MakeClient) -> datastore.Client:
    """A client in an empty namespace."""
    return make_datastore_client()
