"""The table of calls in docs/howto/datastore.md, counted on the Datastore emulator.

The store begins its transactions as in production: with their first lookup, which the
Datastore emulator takes and Firestore's does not.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudtask.runs import RunState, Shard
from cloudtask.stores.datastore import DatastoreStore
from tests.stores.runs_making import (
    LEASE,
    RUN,
    create,
    finish,
    load,
    load_shard,
    shards_of,
    start,
    take,
    walked,
)
from tests.support.proxy import DatastoreProxy

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "datastore.md"
MIB = 1024 * 1024
HALF = Shard(run=RUN, index=0, low="5", high="10", expected=5)
TRIES = 3  # the emulator sometimes refuses a commit without a reason
Act = Callable[[DatastoreStore], Any]


def saved(size: int) -> Act:
    return lambda store: store.save_payload("k", b"x" * size)


def loaded(store: DatastoreStore) -> Any:
    return store.load_payload("k")


def planned(shards: int) -> Act:
    return lambda store: store.add_part(RUN, 0, shards_of(RUN, shards), total=1)


def planning(store: DatastoreStore) -> None:
    create(store, state=RunState.PLANNING)


def leased(store: DatastoreStore) -> None:
    start(store)
    take(store)


def checkpointed(store: DatastoreStore) -> bool:
    return store.checkpoint(load_shard(store), walked("1"), lease=LEASE)


def ended(store: DatastoreStore) -> None:
    start(store)
    finish(store)


SAVING = "| save a payload up to 2.9 MB; 20 MiB | 2; 9 |"
LOADING = "| load a payload up to 16 KB; 3.9 MB; 20 MiB | 1; 2; 7 |"
PLANNING = "| add a part of a plan with up to 22 shards; 251; 490 | 3; 8; 9 |"
CASES: list[tuple[str, Act, Act, int]] = [
    (SAVING, lambda store: None, saved(2_900_000), 2),
    (SAVING, lambda store: None, saved(20 * MIB), 9),
    (LOADING, saved(16_000), loaded, 1),
    (LOADING, saved(3_900_000), loaded, 2),
    (LOADING, saved(20 * MIB), loaded, 7),
    (PLANNING, planning, planned(22), 3),
    (PLANNING, planning, planned(251), 8),
    (PLANNING, planning, planned(490), 9),
    ("| `try_finalize` | 3 |", ended, lambda store: store.try_finalize(RUN), 3),
    (
        "| release with a split | 3 |",
        leased,
        lambda store: store.release(load_shard(store), walked("1"), split=HALF),
        4,  # with the load of the shard
    ),
    (
        "| take the lease of a shard, checkpoint, release, complete, give back, "
        "touch | 2 |",
        leased,
        checkpointed,
        3,  # with the load of the shard
    ),
    ("| load, list, count | 1 |", start, load, 1),
]


@pytest.mark.parametrize(("row", "begin", "act", "calls"), CASES)
def test_the_page_tells_how_many_calls_there_are(
    datastore_at: Callable[[str], DatastoreProxy],
    row: str,
    begin: Act,
    act: Act,
    calls: int,
) -> None:
    assert row in PAGE.read_text(encoding="utf-8")
    proxy = datastore_at("datastore")

    assert min(counted(proxy, begin, act) for _ in range(TRIES)) == calls


def counted(proxy: DatastoreProxy, begin: Act, act: Act) -> int:
    """The calls of `act`, in an empty namespace."""
    options = {"PROJECT": "test-project", "NAMESPACE": uuid.uuid4().hex}
    store = DatastoreStore(options, begins_early=False)
    begin(store)
    before = proxy.calls.total()
    act(store)
    made = proxy.calls.total() - before
    store.delete_payload("k")
    return made
