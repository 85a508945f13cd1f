"""The contracts of payloads and failed tasks, kept in Datastore."""

from __future__ import annotations

import pytest

from cloudtask.stores import Store
from cloudtask.stores.datastore import DatastoreStore
from tests.stores.failed_contract import FailedContract
from tests.stores.payloads_contract import PayloadsContract

pytest_plugins = ["tests.stores.datastore_fixtures"]


class TestDatastore(PayloadsContract, FailedContract):
    @pytest.fixture
    def store(self, datastore_store: DatastoreStore) -> Store:
        return datastore_store
