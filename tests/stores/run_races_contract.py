"""The contract of every store for concurrent callers: exactly one wins.

The fixture `store` must be of databases that commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from django.db import connections

from cloudtask.runs import RunState, Shard
from cloudtask.stores import Store
from tests.stores.runs_making import (
    LEASE,
    OTHER,
    RUN,
    create,
    finish,
    load,
    load_shard,
    shards_of,
    start,
    take,
    walked,
    whole,
)

T = TypeVar("T")
THREADS = 8
ROUNDS = 5


def at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """What the actions return, each begun when all threads are there."""
    barrier = Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        try:
            barrier.wait()
            return action()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


class RunRacesContract:
    def test_a_lease_is_taken_by_one_of_many(self, store: Store) -> None:
        start(store)

        taken = at_once(
            [lambda: store.acquire(RUN, 0, 0, lease=LEASE) for _ in range(THREADS)]
        )

        assert len([shard for shard in taken if shard is not None]) == 1
        assert load_shard(store).fence == 1

    def test_the_lease_of_a_run_is_taken_by_one_of_many(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)

        taken = at_once(
            [
                lambda: store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
                for _ in range(THREADS)
            ]
        )

        assert len([run for run in taken if run is not None]) == 1

    def test_a_state_is_changed_by_one_of_many(self, store: Store) -> None:
        create(store)

        changed = at_once(
            [
                lambda: store.change_run(
                    RUN, to=RunState.PLANNING, only_from=[RunState.WAITING]
                )
                for _ in range(THREADS)
            ]
        )

        assert changed.count(True) == 1
        assert load(store).generation == 1

    def test_one_of_many_plans_is_the_plan(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)

        planned = at_once(
            [
                lambda n=n: store.add_part(RUN, 0, shards_of(RUN, n), total=n)
                for n in range(1, THREADS)
            ]
        )

        assert planned.count(True) == 1
        winner = planned.index(True) + 1
        assert load(store).total == winner
        assert whole(store, store.load_shards(RUN)) == shards_of(RUN, winner)

    def test_one_of_many_decides_to_finalize(self, store: Store) -> None:
        start(store)
        finish(store)

        decided = at_once([lambda: store.try_finalize(RUN) for _ in range(THREADS)])

        assert decided.count(True) == 1

    def test_of_shards_that_end_at_once_one_finalizes(self, store: Store) -> None:
        def end(shard: Shard) -> bool:
            assert store.complete(shard, walked("9"))
            return store.try_finalize(shard.run)

        for number in range(ROUNDS):
            run_id = f"{number:032}"
            start(store, shards=4, run_id=run_id)
            shards = [take(store, index, run_id=run_id) for index in range(4)]

            decided = at_once([lambda shard=shard: end(shard) for shard in shards])

            assert decided.count(True) == 1
            assert load(store, run_id).state is RunState.FINALIZING

    def test_splits_at_once_get_indexes_of_their_own(self, store: Store) -> None:
        start(store, shards=4)
        shards = [take(store, index) for index in range(4)]

        def split(shard: Shard) -> Shard | None:
            half = Shard(run=RUN, index=0, low=f"{shard.index}5", expected=5)
            return store.release(shard, walked("1"), split=half)

        made = at_once([lambda shard=shard: split(shard) for shard in shards])

        assert sorted(one.index for one in made if one) == [4, 5, 6, 7]
        assert {one.low for one in whole(store, store.load_shards(RUN)[4:])} == {
            "05",
            "15",
            "25",
            "35",
        }

    def test_a_split_and_the_end_of_others_do_not_finalize(self, store: Store) -> None:
        for number in range(ROUNDS):
            run_id = f"{number:032}"
            start(store, shards=2, run_id=run_id)
            first, second = (take(store, index, run_id=run_id) for index in (0, 1))
            half = Shard(run=run_id, index=0, low="5", expected=5)

            def end(shard: Shard) -> bool:
                store.complete(shard, walked("9"))
                return store.try_finalize(shard.run)

            def split(shard: Shard, half: Shard = half) -> bool:
                store.release(shard, walked("1"), split=half)
                return store.try_finalize(shard.run)

            decided = at_once([lambda: split(first), lambda: end(second)])  # noqa: B023

            assert decided == [False, False]
            assert load(store, run_id).state is RunState.RUNNING

    def test_a_pause_is_seen_by_every_checkpoint_after_it(self, store: Store) -> None:
        start(store, shards=THREADS)
        shards = [take(store, index) for index in range(THREADS)]

        def walk(shard: Shard) -> bool:
            store.checkpoint(shard, walked("1", done=1), lease=LEASE)
            return True

        def pause() -> bool:
            return store.change_run(
                RUN, to=RunState.PAUSED, only_from=[RunState.RUNNING]
            )

        results = at_once([pause, *(lambda s=s: walk(s) for s in shards)])

        assert all(results)
        assert not any(
            store.checkpoint(shard, walked("2", done=2), lease=LEASE)
            for shard in shards
        )

    def test_runs_do_not_wait_for_each_other(self, store: Store) -> None:
        for run_id in (RUN, OTHER):
            start(store, run_id=run_id)

        taken = at_once(
            [lambda r=r: store.acquire(r, 0, 0, lease=LEASE) for r in (RUN, OTHER)]
        )

        assert None not in taken
