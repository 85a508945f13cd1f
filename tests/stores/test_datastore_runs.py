"""The contracts of runs, kept by the store in Datastore."""

from __future__ import annotations

import time

import pytest

from cloudtask.stores import Store
from cloudtask.stores.datastore import DatastoreStore
from tests.stores.pages_contract import RunPagesContract
from tests.stores.row_failures_contract import RowFailuresContract, SweepingContract
from tests.stores.run_races_contract import RunRacesContract
from tests.stores.runs_contract import RunsContract
from tests.stores.shards_contract import ShardsContract


class TestDatastoreRuns(
    RunsContract,
    ShardsContract,
    RowFailuresContract,
    SweepingContract,
    RunRacesContract,
    RunPagesContract,
):
    @pytest.fixture
    def store(self, datastore_store: DatastoreStore) -> Store:
        # Where many come at once, pauses decide.
        datastore_store.sleep = time.sleep
        return datastore_store
