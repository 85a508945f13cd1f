"""The contract of every store for shards: leases, fences, progress, splits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloudtask.runs import LeaseLost, RunState, Shard, ShardState, Walked
from cloudtask.stores import Store
from tests.stores.runs_making import (
    AN_HOUR,
    LEASE,
    OTHER,
    RUN,
    create,
    failure,
    finish,
    keys,
    load_shard,
    move,
    record,
    shards_of,
    start,
    take,
    walked,
    whole,
)
from tests.support import clock


class ShardsContract:
    def test_shards_are_loaded_by_index_as_they_were_planned(
        self, store: Store
    ) -> None:
        long = "k" * 5_000
        create(store, state=RunState.PLANNING)
        planned = [
            Shard(run=RUN, index=index, low=low, high=high, expected=index)
            for index, (low, high) in enumerate(
                [(None, ""), ("", "0"), ("0", "é"), ("é", long), (long, None)] * 3
            )
        ]
        store.add_part(RUN, 0, planned[::-1], total=9)

        assert whole(store, store.load_shards(RUN)) == planned
        assert [store.load_shard(RUN, shard.index) for shard in planned] == planned

    def test_there_is_no_shard_that_was_not_planned(self, store: Store) -> None:
        start(store)

        assert store.load_shard(RUN, 1) is None
        assert store.load_shard(OTHER, 0) is None

    # acquire

    def test_a_lease_is_taken_under_a_new_fence(self, store: Store) -> None:
        start(store)

        shard = take(store)

        assert (shard.state, shard.fence) == (ShardState.RUNNING, 1)
        assert (shard.deaths, shard.seq) == (0, 0)
        assert shard.lease_until is not None
        assert shard == load_shard(store)

    def test_a_live_lease_is_not_taken_over(self, store: Store) -> None:
        start(store)
        shard = take(store)

        assert store.acquire(RUN, 0, 0, lease=LEASE) is None
        assert load_shard(store) == shard

    @pytest.mark.parametrize("seq", [0, 2])
    def test_a_task_of_another_number_gets_no_lease(
        self, store: Store, seq: int
    ) -> None:
        start(store)
        store.release(take(store), walked("1"))

        assert store.acquire(RUN, 0, seq, lease=LEASE) is None
        assert store.acquire(RUN, 0, 1, lease=LEASE) is not None

    def test_a_shard_that_is_done_gets_no_lease(self, store: Store) -> None:
        start(store)
        finish(store)

        assert store.acquire(RUN, 0, 0, lease=LEASE) is None

    def test_a_shard_that_is_not_there_gets_no_lease(self, store: Store) -> None:
        start(store)

        assert store.acquire(RUN, 1, 0, lease=LEASE) is None
        assert store.acquire(OTHER, 0, 0, lease=LEASE) is None

    def test_a_run_that_is_not_running_gives_no_lease(self, store: Store) -> None:
        start(store)
        move(store, RunState.PAUSED)
        assert store.acquire(RUN, 0, 0, lease=LEASE) is None

        move(store, RunState.RUNNING)
        assert store.acquire(RUN, 0, 0, lease=LEASE) is not None

    def test_a_lease_that_is_over_already_is_taken_over(self, store: Store) -> None:
        start(store)
        store.acquire(RUN, 0, 0, lease=timedelta(minutes=-5))

        assert take(store).fence == 2

    # deaths

    def test_every_lease_that_ends_without_a_word_is_a_death(
        self, store: Store
    ) -> None:
        start(store)
        deaths = []
        for legs in range(4):
            with clock.ahead(legs * AN_HOUR):
                deaths.append(take(store).deaths)

        assert deaths == [0, 1, 2, 3]

    def test_deaths_are_forgotten_when_the_cursor_moves(self, store: Store) -> None:
        start(store)
        take(store)
        with clock.ahead(AN_HOUR):
            shard = take(store)
            store.checkpoint(shard, walked(None), lease=LEASE, suspect="1")
            assert load_shard(store).deaths == 1
            store.checkpoint(shard, walked("1"), lease=LEASE)

        assert load_shard(store).deaths == 0

    def test_a_lease_that_was_given_back_is_no_death(self, store: Store) -> None:
        start(store)
        take(store)
        with clock.ahead(AN_HOUR):
            store.release(take(store), walked(None))

        assert take(store, seq=1).deaths == 0

    # give_back

    @pytest.mark.parametrize("progress", [None, walked("4", done=4)])
    def test_a_lease_that_is_given_back_can_be_had_at_once(
        self, store: Store, progress: Walked | None
    ) -> None:
        start(store)
        assert store.give_back(take(store), progress)

        again = take(store)
        assert (again.deaths, again.fence) == (0, 2)
        assert (again.cursor, again.done) == (("4", 4) if progress else (None, 0))
        assert not store.is_at_work(OTHER)

    def test_a_worker_that_is_being_killed_gives_back_and_counts_as_a_death(
        self, store: Store
    ) -> None:
        start(store)
        deaths = []
        for _ in range(3):
            shard = take(store)
            deaths.append(shard.deaths)
            assert store.give_back(shard, walked(None, lived=29.5), is_killed=True)
            assert load_shard(store).lived == 29.5
            assert not store.is_at_work(RUN)

        assert deaths == [0, 1, 2]
        assert take(store).lived == 0.0

    def test_its_deaths_begin_anew_when_its_cursor_has_moved(
        self, store: Store
    ) -> None:
        start(store)
        for _ in range(2):
            store.give_back(take(store), None, is_killed=True)
        store.give_back(take(store), walked("1"), is_killed=True)

        assert take(store).deaths == 1

    def test_but_not_while_one_of_its_rows_is_under_suspicion(
        self, store: Store
    ) -> None:
        start(store)
        for _ in range(2):
            store.give_back(take(store), None, is_killed=True)
        shard = take(store)
        store.checkpoint(shard, walked("1"), lease=LEASE, suspect="2")
        store.give_back(shard, walked("1"), is_killed=True)

        again = take(store)
        assert (again.deaths, again.suspect) == (3, "2")

    @pytest.mark.parametrize("is_killed", [False, True])
    def test_a_lease_that_was_lost_can_not_be_given_back(
        self, store: Store, is_killed: bool
    ) -> None:
        start(store)
        first = take(store)
        with clock.ahead(AN_HOUR):
            second = take(store)

            assert not store.give_back(first, walked("1"), is_killed=is_killed)
            assert load_shard(store) == second

    # checkpoint

    def test_a_checkpoint_writes_progress_and_renews_the_lease(
        self, store: Store
    ) -> None:
        start(store)
        shard = take(store)
        progress = walked("7", 5, 2, 1, is_walked=True, stride=900, lived=2.5)
        with clock.ahead(60):
            assert store.checkpoint(shard, progress, lease=LEASE, suspect="8")

        found = load_shard(store)
        assert (found.cursor, found.suspect, found.is_walked) == ("7", "8", True)
        assert (found.done, found.failed, found.skipped) == (5, 2, 1)
        assert (found.stride, found.lived) == (900, 2.5)
        assert found.lease_until is not None
        assert shard.lease_until is not None
        assert found.lease_until > shard.lease_until
        assert (found.fence, found.seq) == (shard.fence, shard.seq)

    def test_a_checkpoint_without_a_suspect_clears_it(self, store: Store) -> None:
        start(store)
        shard = take(store)
        store.checkpoint(shard, walked("1"), lease=LEASE, suspect="2")
        store.checkpoint(shard, walked("2"), lease=LEASE)

        assert load_shard(store).suspect is None

    def test_whoever_lost_the_lease_writes_nothing(self, store: Store) -> None:
        start(store)
        first = take(store)
        with clock.ahead(AN_HOUR):
            second = take(store)
            assert not store.checkpoint(
                first, walked("9", 9), lease=LEASE, failure=failure("9"), resolved="8"
            )
            assert not store.complete(first, walked("9", 9))
            with pytest.raises(LeaseLost):
                store.release(first, walked("9", 9), split=shards_of(RUN, 1)[0])

        assert whole(store, store.load_shards(RUN)) == [second]
        assert store.load_failures(RUN) == []

    def test_a_pause_refuses_the_next_checkpoint(self, store: Store) -> None:
        start(store)
        shard = take(store)
        move(store, RunState.PAUSED)

        assert not store.checkpoint(
            shard, walked("1"), lease=LEASE, failure=failure("1")
        )
        assert load_shard(store) == shard
        assert store.count_failures(RUN) == 0

    def test_a_checkpoint_records_and_forgets_failed_rows(self, store: Store) -> None:
        start(store)
        shard = take(store)
        record(store, failure("1"), delay=timedelta(0))

        store.checkpoint(
            shard,
            walked("2"),
            lease=LEASE,
            failure=failure("2", error="why"),
            delay=timedelta(hours=1),
            resolved="1",
        )

        [kept] = store.load_failures(RUN)
        assert (kept.key, kept.error) == ("2", "why")
        due, seconds = store.waiting_failures(RUN, 0, limit=9)
        assert due == []
        assert seconds is not None
        with clock.ahead(2 * AN_HOUR):
            assert keys(store.waiting_failures(RUN, 0, limit=9)[0]) == ["2"]

    # release and splits

    def test_a_lease_is_given_back_for_a_successor(self, store: Store) -> None:
        start(store)
        shard = take(store)

        assert store.release(shard, walked("5", done=5)) is None

        found = load_shard(store)
        assert (found.state, found.seq) == (ShardState.WAITING, 1)
        assert (found.cursor, found.done, found.lease_until) == ("5", 5, None)
        assert not store.checkpoint(shard, walked("6"), lease=LEASE)
        assert take(store, seq=1).fence == 2

    def test_a_lease_is_given_back_while_the_run_is_paused(self, store: Store) -> None:
        start(store)
        shard = take(store)
        move(store, RunState.PAUSED)

        store.release(shard, walked("5"))

        assert load_shard(store).cursor == "5"

    def test_a_lease_is_given_back_once(self, store: Store) -> None:
        start(store)
        shard = take(store)
        store.release(shard, walked("5"))

        with pytest.raises(LeaseLost):
            store.release(shard, walked("6"))
        assert load_shard(store).seq == 1

    def test_a_split_takes_the_upper_part_under_the_next_index(
        self, store: Store
    ) -> None:
        start(store, shards=2)
        shard = take(store)
        half = Shard(run=RUN, index=0, low="6", high="10", expected=4)

        made = store.release(shard, walked("3", done=3), split=half)

        assert made == Shard(run=RUN, index=2, low="6", high="10", expected=4)
        assert load_shard(store, 2) == made
        assert (load_shard(store).high, load_shard(store).expected) == ("6", 6)
        assert load_shard(store).seq == 1

    def test_splits_of_splits_get_indexes_of_their_own(self, store: Store) -> None:
        start(store)
        made: Shard | None = take(store)
        indexes = []
        for _ in range(3):
            assert made is not None
            half = Shard(run=RUN, index=0, low="6", expected=1)
            made = store.release(made, walked("3"), split=half)
            assert made is not None
            indexes.append(made.index)
            made = take(store, made.index)

        assert indexes == [1, 2, 3]

    def test_a_split_holds_finalize_up(self, store: Store) -> None:
        start(store)
        half = Shard(run=RUN, index=0, low="6", expected=1)
        store.release(take(store), walked("3"), split=half)
        store.complete(take(store, seq=1), walked("6"))

        assert not store.try_finalize(RUN)
        finish(store, 1)
        assert store.try_finalize(RUN)

    # complete

    def test_a_shard_is_completed_once(self, store: Store) -> None:
        start(store)
        shard = take(store)
        store.checkpoint(shard, walked("1"), lease=LEASE, suspect="2")

        assert store.complete(shard, walked("9", done=9, is_walked=True))

        found = load_shard(store)
        assert (found.state, found.cursor, found.done) == (ShardState.DONE, "9", 9)
        assert (found.lease_until, found.suspect) == (None, None)
        assert not store.complete(shard, walked("10", done=10))
        assert not store.checkpoint(shard, walked("10"), lease=LEASE)
        assert load_shard(store) == found

    # bump_shard

    def test_a_shard_is_renumbered_once(self, store: Store) -> None:
        start(store)
        shard = load_shard(store)

        bumped = store.bump_shard(shard)
        assert bumped is not None

        assert whole(store, [bumped]) == [load_shard(store)]
        assert bumped.seq == 1
        assert store.bump_shard(shard) is None

    def test_a_shard_in_work_or_done_is_not_renumbered(self, store: Store) -> None:
        start(store, shards=2)
        take(store)
        finish(store, 1)

        assert store.bump_shard(load_shard(store)) is None
        assert store.bump_shard(load_shard(store, 1)) is None
        with clock.ahead(AN_HOUR):
            assert store.bump_shard(load_shard(store)) is not None

    def test_a_holder_that_lives_on_keeps_the_lease_after_a_renumbering(
        self, store: Store
    ) -> None:
        start(store)
        shard = take(store)
        with clock.ahead(AN_HOUR):
            store.bump_shard(load_shard(store))
            assert store.checkpoint(shard, walked("1"), lease=LEASE)
            assert store.acquire(RUN, 0, 1, lease=LEASE) is None
