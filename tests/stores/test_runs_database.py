"""The contracts of runs, kept by the store in the database of this test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtask.stores import Store
from cloudtask.stores.database import DatabaseStore
from tests.durability.database import committing
from tests.stores.pages_contract import RunPagesContract
from tests.stores.row_failures_contract import RowFailuresContract, SweepingContract
from tests.stores.run_races_contract import RunRacesContract
from tests.stores.runs_contract import RunsContract
from tests.stores.shards_contract import ShardsContract


def test_writes_join_a_transaction_of_the_database_of_the_option() -> None:
    assert DatabaseStore({}).database == "default"
    assert DatabaseStore({"ALIAS": "other"}).database == "other"


class TestDatabaseRuns(
    RunsContract,
    ShardsContract,
    RowFailuresContract,
    SweepingContract,
    RunPagesContract,
):
    @pytest.fixture
    def store(self, db: None) -> Store:
        return DatabaseStore({})


@pytest.mark.django_db(databases=["default", "other"])
class TestDatabaseRaces(RunRacesContract):
    @pytest.fixture
    def store(self, db: None, tmp_path: Path) -> Iterator[Store]:
        with committing(tmp_path):
            yield DatabaseStore({})
