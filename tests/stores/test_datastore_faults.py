"""Faults between the store and Datastore: lost answers, conflicts, many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from grpc import StatusCode

from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.runs import FailureState, LeaseLost, RunState, Shard
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.client import PATIENCE, TRIES
from tests.stores.datastore_fixtures import empty_place
from tests.stores.runs_making import (
    AT_ONCE,
    LEASE,
    OTHER,
    RUN,
    create,
    failure,
    finish,
    load,
    load_shard,
    move,
    record,
    shards_of,
    start,
    take,
    walked,
)
from tests.support.proxy import DatastoreProxy

Change = Callable[[DatastoreStore], Any]
HALF = Shard(run=RUN, index=0, low="5", high="10", expected=5)

# What each change begins with, and the change.
CHANGES: dict[str, tuple[Change, Change]] = {
    "create_run": (lambda store: None, create),
    "change_run": (
        create,
        lambda store: store.change_run(
            RUN, to=RunState.PLANNING, only_from=[RunState.WAITING]
        ),
    ),
    "add_part": (
        lambda store: create(store, state=RunState.PLANNING),
        lambda store: store.add_part(RUN, 0, shards_of(RUN, 3), total=30),
    ),
    "acquire": (start, lambda store: store.acquire(RUN, 0, 0, lease=LEASE)),
    "checkpoint": (
        lambda store: (start(store), take(store)),
        lambda store: store.checkpoint(
            load_shard(store), walked("1", done=1), lease=LEASE, failure=failure("2")
        ),
    ),
    "release": (
        lambda store: (start(store), take(store)),
        lambda store: store.release(load_shard(store), walked("1")),
    ),
    "split": (
        lambda store: (start(store), take(store)),
        lambda store: store.release(load_shard(store), walked("1"), split=HALF),
    ),
    "complete": (
        lambda store: (start(store), take(store)),
        lambda store: store.complete(load_shard(store), walked("9")),
    ),
    "try_finalize": (
        lambda store: (start(store), finish(store)),
        lambda store: store.try_finalize(RUN),
    ),
    "acquire_run": (
        lambda store: create(store, state=RunState.FINALIZING),
        lambda store: store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE),
    ),
    "settle_run": (
        lambda store: create(store, state=RunState.FINALIZING),
        lambda store: store.settle_run(load(store), to=RunState.FINISHED),
    ),
    "bump_run": (create, lambda store: store.bump_run(load(store))),
    "bump_shard": (start, lambda store: store.bump_shard(load_shard(store))),
    "reopen_failures": (
        lambda store: (
            start(store),
            finish(store),
            record(store, failure("1", FailureState.FAILED), delay=AT_ONCE),
        ),
        lambda store: store.reopen_failures(RUN),
    ),
    "discard_failures": (
        lambda store: (
            start(store),
            record(store, failure("1", FailureState.FAILED), delay=AT_ONCE),
        ),
        lambda store: store.discard_failures(RUN),
    ),
    "recording a failure": (
        start,
        lambda store: record(store, failure("1"), delay=AT_ONCE),
    ),
    "resolve_failure": (
        lambda store: (
            start(store),
            record(store, failure("1"), delay=AT_ONCE),
        ),
        lambda store: store.resolve_failure(RUN, "1"),
    ),
    "delete_run": (
        lambda store: (start(store), create(store, OTHER)),
        lambda store: store.delete_run(RUN),
    ),
}


def untimed(value: Any) -> Any:
    """`value` with all times alike."""
    if isinstance(value, list):
        return [untimed(one) for one in value]
    names = [f.name for f in fields(value)] if hasattr(value, "__slots__") else []
    times = [n for n in names if isinstance(getattr(value, n), datetime)]
    return replace(value, **dict.fromkeys(times, datetime.max)) if times else value


def everything(store: DatastoreStore) -> list[Any]:
    return [
        untimed(store.load_run(RUN)),
        untimed(store.load_shards(RUN)),
        untimed(store.load_failures(RUN)),
    ]


@pytest.fixture
def elsewhere(datastore_store: DatastoreStore) -> DatastoreStore:
    """The same store for another namespace, where nothing goes wrong."""
    return DatastoreStore(empty_place())


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    ("code", "apply"),
    [
        (StatusCode.UNAVAILABLE, True),
        (StatusCode.DEADLINE_EXCEEDED, True),
        (StatusCode.UNAVAILABLE, False),
        (StatusCode.ABORTED, False),
    ],
)
def test_a_change_whose_commit_fails_once_happens_once(
    faults: DatastoreProxy,
    datastore_store: DatastoreStore,
    elsewhere: DatastoreStore,
    name: str,
    code: StatusCode,
    apply: bool,
) -> None:
    begin, change = CHANGES[name]
    begin(elsewhere)
    expected = untimed(change(elsewhere))
    begin(datastore_store)
    faults.fail_next("Commit", code, apply=apply)

    assert untimed(change(datastore_store)) == expected
    assert everything(datastore_store) == everything(elsewhere)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("method", ["Lookup", "RunQuery"])
def test_a_change_whose_reads_are_aborted_happens_once(
    faults: DatastoreProxy,
    datastore_store: DatastoreStore,
    elsewhere: DatastoreStore,
    name: str,
    method: str,
) -> None:
    begin, change = CHANGES[name]
    begin(elsewhere)
    expected = untimed(change(elsewhere))
    begin(datastore_store)
    faults.fail_next(method, StatusCode.ABORTED, times=2)

    assert untimed(change(datastore_store)) == expected
    assert everything(datastore_store) == everything(elsewhere)


def test_a_transaction_that_expired_is_run_again(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    faults.fail_next(
        "Commit",
        StatusCode.INVALID_ARGUMENT,
        message="The referenced transaction has expired or is no longer valid.",
    )

    assert take(datastore_store).fence == 1


# Storms


@pytest.mark.parametrize("code", [StatusCode.ABORTED, StatusCode.UNAVAILABLE])
def test_a_storm_is_given_up_and_changes_nothing(
    faults: DatastoreProxy, datastore_store: DatastoreStore, code: StatusCode
) -> None:
    start(datastore_store)
    before = faults.calls["Commit"]
    faults.fail_next("Commit", code, times=TRIES)

    with pytest.raises(EnqueueUnavailable, match="Leasing shard 0"):
        take(datastore_store)

    assert faults.calls["Commit"] - before == TRIES
    assert load_shard(datastore_store).fence == 0


def test_a_storm_that_passes_is_waited_for(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    pauses: list[float] = []
    datastore_store.sleep = pauses.append
    faults.fail_next("Commit", StatusCode.ABORTED, times=TRIES - 1)

    assert take(datastore_store).fence == 1
    assert len(pauses) == TRIES - 1
    assert pauses[0] < pauses[-1]
    assert sum(pauses) < PATIENCE


def test_no_try_begins_when_patience_is_at_its_end(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    hours = iter(range(0, 10_000, int(PATIENCE) // 2 + 1))
    datastore_store.monotonic = lambda: float(next(hours))
    before = faults.calls["Commit"]
    faults.fail_next("Commit", StatusCode.UNAVAILABLE, times=TRIES)

    with pytest.raises(EnqueueUnavailable):
        take(datastore_store)

    assert faults.calls["Commit"] - before == 2


def test_a_rollback_that_fails_hides_nothing(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    shard = take(datastore_store)
    datastore_store.release(shard, walked("1"))
    faults.fail_next("Rollback", StatusCode.UNAVAILABLE, times=100)

    with pytest.raises(LeaseLost):
        datastore_store.release(shard, walked("2"))
    assert not datastore_store.complete(shard, walked("2"))


# Somebody else comes between a transaction's reads and its commit


def test_a_lease_taken_in_between_is_not_ours(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    optimistic.before_next("Commit", lambda: take(datastore_store))

    assert datastore_store.acquire(RUN, 0, 0, lease=LEASE) is None
    assert load_shard(datastore_store).fence == 1


def test_a_pause_in_between_refuses_the_checkpoint(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    shard = take(datastore_store)
    optimistic.before_next("Commit", lambda: move(datastore_store, RunState.PAUSED))

    assert not datastore_store.checkpoint(shard, walked("1"), lease=LEASE)
    assert load_shard(datastore_store) == shard


def test_a_pause_in_between_refuses_the_lease(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    optimistic.before_next("Commit", lambda: move(datastore_store, RunState.PAUSED))

    assert datastore_store.acquire(RUN, 0, 0, lease=LEASE) is None


def test_a_cancellation_in_between_refuses_the_plan(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    create(datastore_store, state=RunState.PLANNING)
    optimistic.before_next("Commit", lambda: move(datastore_store, RunState.CANCELLED))

    assert not datastore_store.add_part(RUN, 0, shards_of(RUN, 3), total=30)
    assert datastore_store.load_shards(RUN) == []


def test_a_split_in_between_takes_the_index_before(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store, shards=2)
    first, second = take(datastore_store, 0), take(datastore_store, 1)
    optimistic.before_next(
        "Commit", lambda: datastore_store.release(second, walked("15"), split=HALF)
    )

    made = datastore_store.release(first, walked("1"), split=HALF)

    assert made is not None
    assert made.index == 3
    assert [shard.index for shard in datastore_store.load_shards(RUN)] == [0, 1, 2, 3]


def test_one_of_two_that_finalize_in_between_wins(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    finish(datastore_store)
    others: list[bool] = []
    optimistic.before_next(
        "Commit", lambda: others.append(datastore_store.try_finalize(RUN))
    )

    assert not datastore_store.try_finalize(RUN)
    assert others == [True]


def test_the_last_shard_that_ends_before_the_question_is_seen(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    shard = take(datastore_store)
    faults.before_next("RunQuery", lambda: datastore_store.complete(shard, walked("9")))

    assert datastore_store.try_finalize(RUN)


def test_a_split_before_the_question_is_seen(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    shard = take(datastore_store)

    def split_and_complete() -> None:
        datastore_store.release(shard, walked("1"), split=HALF)
        datastore_store.complete(take(datastore_store, seq=1), walked("5"))

    faults.before_next("RunQuery", split_and_complete)

    assert not datastore_store.try_finalize(RUN)


def test_a_plan_set_just_before_the_run_is_read_is_seen(
    faults: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    create(datastore_store, state=RunState.PLANNING)
    faults.before_next(
        "Lookup", lambda: datastore_store.add_part(RUN, 0, shards_of(RUN, 1), total=10)
    )

    assert not datastore_store.try_finalize(RUN)
    assert load(datastore_store).state is RunState.RUNNING


def test_a_pause_after_the_question_stops_finalize(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store, shards=0)
    optimistic.before_next("Commit", lambda: move(datastore_store, RunState.PAUSED))

    assert not datastore_store.try_finalize(RUN)
    assert load(datastore_store).state is RunState.PAUSED


def test_rows_are_reopened_once_by_two(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    start(datastore_store)
    finish(datastore_store)
    record(datastore_store, failure("1", FailureState.FAILED), delay=AT_ONCE)
    others: list[int] = []
    optimistic.before_next(
        "Commit", lambda: others.append(datastore_store.reopen_failures(RUN))
    )

    assert datastore_store.reopen_failures(RUN) == 0
    assert others == [1]
    assert load_shard(datastore_store).seq == 1


def test_a_lost_answer_is_not_mistaken_when_others_went_on(
    optimistic: DatastoreProxy, datastore_store: DatastoreStore
) -> None:
    """The mark of the commit is gone: the run is FINALIZING once all the same."""
    generation = start(datastore_store, shards=0).generation

    def go_on() -> None:
        run = datastore_store.acquire_run(
            RUN, state=RunState.FINALIZING, lease=timedelta(minutes=-5)
        )
        assert run is not None

    def between_the_tries() -> None:
        optimistic.before_next("Lookup", go_on)

    optimistic.before_next("Commit", between_the_tries)
    optimistic.fail_next("Commit", StatusCode.UNAVAILABLE, apply=True)

    assert not datastore_store.try_finalize(RUN)
    assert load(datastore_store).generation == generation + 1
