"""Eight at once for one lease, plan or decision in Datastore: one wins, each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudtask.runs import RunState
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.plans import AT_ONCE
from tests.stores.datastore_fixtures import empty_place
from tests.stores.run_races_contract import THREADS, at_once
from tests.stores.runs_making import LEASE, RUN, create, finish, shards_of, start
from tests.support.proxy import DatastoreProxy

ROUNDS = 20
Act = Callable[[DatastoreStore, int], Any]


def planning(store: DatastoreStore) -> None:
    create(store, state=RunState.PLANNING)


def ended(store: DatastoreStore) -> None:
    start(store)
    finish(store)


RACES: dict[str, tuple[Callable[[DatastoreStore], Any], Act]] = {
    "lease": (start, lambda store, n: store.acquire(RUN, 0, 0, lease=LEASE)),
    "plan": (
        planning,
        lambda store, n: store.add_part(RUN, 0, shards_of(RUN, n + 1), total=n),
    ),
    "large plan": (
        planning,
        lambda store, n: store.add_part(RUN, 0, shards_of(RUN, AT_ONCE + n), total=n),
    ),
    "decision": (ended, lambda store, n: store.try_finalize(RUN)),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("race", RACES)
def test_one_of_eight_wins(faults: DatastoreProxy, race: str, number: int) -> None:
    begin, act = RACES[race]
    store = DatastoreStore(empty_place())
    begin(store)

    won = at_once([lambda n=n: act(store, n) for n in range(THREADS)])

    assert len([one for one in won if one]) == 1
