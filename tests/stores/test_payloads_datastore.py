"""The contracts of payloads, failed tasks, results, groups and schedules, kept in
Datastore."""

from __future__ import annotations

import pytest

from cloudtask.stores import Store
from cloudtask.stores.datastore import DatastoreStore
from tests.stores.failed_contract import FailedContract
from tests.stores.groups_contract import GroupsContract
from tests.stores.marks_contract import MarksContract
from tests.stores.pages_contract import FailedPagesContract
from tests.stores.payloads_contract import PayloadsContract
from tests.stores.results_contract import ResultsContract
from tests.stores.schedules_contract import SchedulesContract


class TestDatastore(
    PayloadsContract,
    FailedContract,
    FailedPagesContract,
    ResultsContract,
    GroupsContract,
    MarksContract,
    SchedulesContract,
):
    @pytest.fixture
    def store(self, datastore_store: DatastoreStore) -> Store:
        return datastore_store
