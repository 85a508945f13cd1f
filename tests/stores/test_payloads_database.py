"""The contracts of payloads, failed tasks, results, groups and schedules, kept in the
database of this test run; and what only a database does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections, transaction

from cloudtask.exceptions import ConfigurationError, EnqueueError, PayloadLost
from cloudtask.models import PayloadChunk
from cloudtask.stores import Store
from cloudtask.stores.database import CHUNK, DatabaseStore
from tests.durability.database import committing, rolled_back
from tests.stores.failed_contract import FailedContract
from tests.stores.groups_contract import GroupsContract
from tests.stores.marks_contract import MarksContract
from tests.stores.pages_contract import FailedPagesContract
from tests.stores.payloads_contract import PayloadsContract, noise
from tests.stores.results_contract import ResultsContract
from tests.stores.schedules_contract import SchedulesContract

both = pytest.mark.django_db(databases=["default", "other"])


@both
class TestDatabase(
    PayloadsContract,
    FailedContract,
    FailedPagesContract,
    ResultsContract,
    GroupsContract,
    MarksContract,
    SchedulesContract,
):
    @pytest.fixture
    def store(self, db: None) -> Store:
        return DatabaseStore({"ALIAS": "other"})


@pytest.fixture
def store(db: None, tmp_path: Path) -> Iterator[DatabaseStore]:
    with committing(tmp_path):
        yield DatabaseStore({})


@both
def test_a_payload_that_joins_a_transaction_shares_its_end(
    store: DatabaseStore,
) -> None:
    with rolled_back():
        store.save_payload("undone", b"1", joins="default")
    with transaction.atomic():
        store.save_payload("kept", b"1", joins="default")

    assert store.load_payload("kept") == b"1"
    with pytest.raises(PayloadLost):
        store.load_payload("undone")


@both
@pytest.mark.parametrize("joins", [None, "other"])
def test_a_payload_that_does_not_join_outlives_a_rollback(
    store: DatabaseStore, joins: str | None
) -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has one writer: see the next test")
    with rolled_back():
        store.save_payload("k", noise(CHUNK + 1), joins=joins)

    assert store.load_payload("k") == noise(CHUNK + 1)


@both
def test_where_it_could_not_outlive_it_nothing_is_saved(store: DatabaseStore) -> None:
    if connections["default"].vendor != "sqlite":
        pytest.skip("other databases let one write beside an open transaction")
    with transaction.atomic(), pytest.raises(EnqueueError, match="one writer"):
        store.save_payload("k", b"1")


@both
@pytest.mark.parametrize("harm", ["first", "last", "shorter"])
def test_chunks_that_are_damaged_are_told_with_the_key(
    store: DatabaseStore, harm: str
) -> None:
    store.save_payload("the-key", noise(CHUNK * 3))
    chunk = PayloadChunk.objects.get(index=0 if harm == "first" else 2)
    if harm == "shorter":
        chunk.data = bytes(chunk.data)[:-1]
        chunk.save()
    else:
        chunk.delete()

    with pytest.raises(PayloadLost, match="the-key"):
        store.load_payload("the-key")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ALIAS"):
        DatabaseStore({"ALAIS": "default"})
