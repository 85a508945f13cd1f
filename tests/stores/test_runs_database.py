"""The contracts of runs, kept by the store in the database of this test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from cloudtask.runs import RunState
from cloudtask.stores import Store
from cloudtask.stores.database import DatabaseStore
from tests.durability.database import committing
from tests.stores.pages_contract import RunPagesContract
from tests.stores.row_failures_contract import RowFailuresContract, SweepingContract
from tests.stores.run_races_contract import RunRacesContract
from tests.stores.runs_contract import RunsContract
from tests.stores.runs_making import RUN, create
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


@pytest.mark.django_db
def test_a_run_with_a_version_that_no_write_can_match_is_failed() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("its table refuses such a version")
    store = DatabaseStore({})
    create(store)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute("UPDATE cloudtask_iterationrun SET version = -1")
        cursor.execute("PRAGMA ignore_check_constraints = OFF")

    assert not store.change_run(RUN, to=RunState.PAUSED, only_from=[RunState.WAITING])

    run = store.load_run(RUN)
    assert run is not None
    assert run.state is RunState.FAILED
    assert f"iteration / {RUN} / version can't be read" in run.error
