"""The Datastore that a test run talks to: this package's, or one that runs already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from google.cloud.datastore import Client

from tests.support.datastore.server import DatastoreServer

MakeClient = Callable[..., Client]  # what the fixture make_datastore_client gives

VARIABLE = "DATASTORE_EMULATOR_HOST"


@contextmanager
def running_datastore() -> Iterator[DatastoreServer | None]:
    """A Datastore at DATASTORE_EMULATOR_HOST for as long as the context is open.

    Yields the server that it started; None when the variable was set before, so that
    tests of faults, which need the server, can skip.
    """
    if os.environ.get(VARIABLE):
        yield None
        return
    with DatastoreServer() as server:
        os.environ[VARIABLE] = server.address
        try:
            yield server
        finally:
            del os.environ[VARIABLE]
