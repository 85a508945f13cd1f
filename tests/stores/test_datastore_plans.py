"""Plans of many shards in Datastore: there as a whole or not at all, at every edge."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from google.cloud.datastore import Entity
from grpc import StatusCode

from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.runs import RunState, ShardState
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.client import TRIES, clients
from cloudtask.stores.datastore.plans import AT_ONCE
from tests.stores.run_races_contract import at_once
from tests.stores.runs_making import (
    LEASE,
    RUN,
    create,
    finish,
    load,
    load_shard,
    move,
    shards_of,
    start,
    take,
    walked,
    whole,
)
from tests.support import clock
from tests.support.proxy import DatastoreProxy

MANY = 60
AN_HOUR = timedelta(hours=1)
# Commits of such a plan: the one that decides, that of all shards but the first, and
# the last one.
DECIDING, CREATING, LAST = range(3)


def plan(store: DatastoreStore, shards: int = MANY, **values: Any) -> bool:
    return store.add_part(RUN, 0, shards_of(RUN, shards), total=shards * 10, **values)


def planning(store: DatastoreStore) -> None:
    create(store, state=RunState.PLANNING)


def entities(store: DatastoreStore, kind: str) -> list[Entity]:
    query = clients.get(store.place).query(kind=kind, namespace=store.place.namespace)
    return list(query.fetch())


def cut_off(faults: Any, store: DatastoreStore, commit: int) -> None:
    """Have a plan of MANY shards end at one of its commits."""
    planning(store)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, skip=commit, times=TRIES)
    with pytest.raises(EnqueueUnavailable):
        plan(store)


def assert_planned(store: DatastoreStore, shards: int = MANY) -> None:
    assert load(store).state is RunState.RUNNING
    assert whole(store, store.load_shards(RUN)) == shards_of(RUN, shards)
    [run] = entities(store, "CloudtaskRun")
    assert not [name for name in run if name.startswith("plan_")]


@pytest.mark.parametrize("shards", [1, AT_ONCE, AT_ONCE + 1, 25, 26, 251, 490, 1100])
def test_a_plan_has_any_number_of_shards(
    datastore_store: DatastoreStore, shards: int
) -> None:
    planning(datastore_store)

    assert plan(datastore_store, shards)
    assert not plan(datastore_store, shards)

    assert [s.index for s in datastore_store.load_shards(RUN)] == list(range(shards))
    assert load_shard(datastore_store, shards - 1) == shards_of(RUN, shards)[-1]
    assert load(datastore_store).is_planned


def test_large_parts_follow_one_another(datastore_store: DatastoreStore) -> None:
    planning(datastore_store)
    assert plan(datastore_store, rest="from 600")
    assert datastore_store.add_part(RUN, 1, shards_of(RUN, MANY), total=600)

    found = datastore_store.load_shards(RUN)
    assert [shard.index for shard in found] == list(range(2 * MANY))
    assert load(datastore_store).total == 1200


def test_a_plan_with_long_keys_takes_chunks_and_leaves_none(
    datastore_store: DatastoreStore,
) -> None:
    planning(datastore_store)
    shards = [
        type(one)(run=RUN, index=one.index, high=f"{one.index}é" * 500)
        for one in shards_of(RUN, 300)
    ]

    assert datastore_store.add_part(RUN, 0, shards, total=1)

    assert load_shard(datastore_store, 299) == shards[299]
    assert entities(datastore_store, "CloudtaskChunk") == []


# Cut off at each edge


def test_a_plan_cut_off_before_it_is_decided_is_not_there(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, DECIDING)

    assert load(datastore_store).state is RunState.PLANNING
    assert datastore_store.load_shards(RUN) == []
    assert entities(datastore_store, "CloudtaskShard") == []
    assert plan(datastore_store)
    assert_planned(datastore_store)


@pytest.mark.parametrize("commit", [CREATING, LAST])
def test_a_plan_cut_off_after_it_is_decided_is_completed_by_who_reads_the_run(
    faults: DatastoreProxy, datastore_store: DatastoreStore, commit: int
) -> None:
    cut_off(faults, datastore_store, commit)

    assert_planned(datastore_store)


def test_a_plan_whose_shards_are_partly_there_is_completed_by_who_lists_them(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, LAST)
    some = entities(datastore_store, "CloudtaskShard")
    assert len(some) == MANY - 1
    clients.get(datastore_store.place).delete_multi([one.key for one in some[::2]])

    assert whole(datastore_store, datastore_store.load_shards(RUN)) == shards_of(
        RUN, MANY
    )
    assert_planned(datastore_store)


@pytest.mark.parametrize("commit", [DECIDING, CREATING, LAST])
def test_a_plan_whose_answers_are_lost_is_the_plan(
    faults: DatastoreProxy, datastore_store: DatastoreStore, commit: int
) -> None:
    planning(datastore_store)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, apply=True, skip=commit)

    assert plan(datastore_store)
    assert_planned(datastore_store)


def test_a_run_is_not_over_while_shards_are_missing(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, CREATING)

    assert not datastore_store.try_finalize(RUN)


def test_a_run_whose_plan_was_cut_off_is_stale(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, CREATING)

    with clock.ahead(7200):
        [run] = datastore_store.stale_runs(older_than=AN_HOUR, limit=9)
        assert datastore_store.bump_run(run) is not None

    assert_planned(datastore_store)


@pytest.mark.parametrize("to", [RunState.PAUSED, RunState.CANCELLED])
def test_a_run_that_was_stopped_meanwhile_keeps_its_plan(
    faults: DatastoreProxy, datastore_store: DatastoreStore, to: RunState
) -> None:
    cut_off(faults, datastore_store, CREATING)
    move(datastore_store, to)

    assert load(datastore_store).state is to
    assert len(datastore_store.load_shards(RUN)) == MANY


def test_a_new_description_keeps_the_plan(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, CREATING)
    assert datastore_store.change_run(
        RUN, to=RunState.PAUSED, only_from=list(RunState), description=b"new"
    )

    assert load(datastore_store).description == b"new"
    assert len(datastore_store.load_shards(RUN)) == MANY


def test_a_run_that_is_deleted_takes_its_plan_along(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, LAST)

    datastore_store.delete_run(RUN)

    for kind in ("CloudtaskRun", "CloudtaskShard", "CloudtaskChunk"):
        assert entities(datastore_store, kind) == []


def test_a_run_that_is_deleted_meanwhile_leaves_no_shards(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    planning(datastore_store)

    optimistic.before_next(
        "Commit", lambda: datastore_store.delete_run(RUN), skip=CREATING
    )
    plan(datastore_store)

    assert datastore_store.load_run(RUN) is None
    assert entities(datastore_store, "CloudtaskShard") == []


# Others at the same time


def test_a_shard_that_is_walked_is_not_written_again(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    """Another process completes the plan, and walks shards, while this one writes."""
    planning(datastore_store)

    def others() -> None:
        load(datastore_store)
        finish(datastore_store, 0)
        finish(datastore_store, 7)

    optimistic.before_next("Commit", others, skip=CREATING)
    assert plan(datastore_store)

    done = [
        s.index for s in datastore_store.load_shards(RUN) if s.state is ShardState.DONE
    ]
    assert done == [0, 7]


def test_a_split_while_shards_are_missing_hides_nothing(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    planning(datastore_store)
    assert datastore_store.add_part(RUN, 0, shards_of(RUN, 1), total=9, rest="9")
    shard = take(datastore_store)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, skip=CREATING, times=TRIES)
    with pytest.raises(EnqueueUnavailable):
        datastore_store.add_part(RUN, 1, shards_of(RUN, MANY), total=9)

    half = type(shard)(run=RUN, index=0, low="5", high="10")
    made = datastore_store.release(shard, walked("1"), split=half)

    assert made is not None
    assert made.index == 1 + MANY
    assert len(datastore_store.load_shards(RUN)) == 2 + MANY


def test_a_part_waits_until_the_one_before_is_written_out(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    planning(datastore_store)
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, skip=CREATING, times=TRIES)
    with pytest.raises(EnqueueUnavailable):
        plan(datastore_store, rest="600")

    assert datastore_store.add_part(RUN, 1, shards_of(RUN, MANY), total=600)

    assert len(datastore_store.load_shards(RUN)) == 2 * MANY


def test_of_many_large_plans_at_once_one_is_the_plan(
    datastore_store: DatastoreStore,
) -> None:
    datastore_store.sleep = time.sleep  # without pauses, none gives way to another
    planning(datastore_store)
    sizes = [AT_ONCE + 3 * n for n in range(-2, 3)]

    planned = at_once([lambda n=n: plan(datastore_store, n) for n in sizes])

    assert planned.count(True) == 1
    assert_planned(datastore_store, sizes[planned.index(True)])


def test_a_plan_that_was_altered_fails_the_run(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    cut_off(faults, datastore_store, CREATING)
    [row] = entities(datastore_store, "CloudtaskRun")
    inline = bytearray(row["plan_inline"])
    inline[-1] ^= 1
    row["plan_inline"] = bytes(inline)
    clients.get(datastore_store.place).put(row)

    run = load(datastore_store)

    assert run.state is RunState.FAILED
    assert "plan" in run.error
    assert datastore_store.acquire(RUN, 0, 0, lease=LEASE) is None


def test_a_small_plan_is_one_commit(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    before = faults.calls["Commit"]

    start(datastore_store, shards=AT_ONCE)

    assert faults.calls["Commit"] - before == 2
