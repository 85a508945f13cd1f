"""The contract of every store for failed rows, and for runs that lost their tasks."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloudtask.runs import ENDED, STOPPED, FailureState, RunState, ShardState
from cloudtask.stores import Store
from tests.stores.runs_making import (
    AN_HOUR,
    AT_ONCE,
    LEASE,
    OTHER,
    RUN,
    create,
    failure,
    finish,
    keys,
    load,
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

HALF_AN_HOUR = timedelta(minutes=30)


class RowFailuresContract:
    def test_a_failure_is_loaded_as_it_was_recorded(self, store: Store) -> None:
        start(store)
        given = failure(
            "k" * 5_000,
            FailureState.KILLED,
            attempts=3,
            error="é" * 2_000,
            traceback="line\n" * 4_000,
        )
        record(store, given, delay=AT_ONCE)

        [found] = store.load_failures(RUN)
        assert (found.key, found.state) == (given.key, given.state)
        assert (found.run, found.shard, found.attempts) == (RUN, 0, 3)
        assert (found.error, found.traceback) == (given.error, given.traceback)
        assert found.due_at is not None

    def test_a_key_has_one_failure(self, store: Store) -> None:
        start(store, shards=2)
        record(store, failure("1", attempts=1), delay=AT_ONCE)
        record(
            store, failure("1", FailureState.FAILED, shard=1, attempts=2), delay=AT_ONCE
        )

        [found] = store.load_failures(RUN)
        assert (found.state, found.attempts) == (FailureState.FAILED, 2)
        assert found.shard == 1

    def test_keys_that_look_alike_are_told_apart(self, store: Store) -> None:
        start(store)
        alike = {"a", "A", "á", " a", "a ", "1", "01"}
        for key in alike:
            record(store, failure(key), delay=AT_ONCE)

        assert {one.key for one in store.load_failures(RUN)} == alike

    def test_a_failure_is_resolved(self, store: Store) -> None:
        start(store)
        for key in ("1", "2"):
            record(store, failure(key), delay=AT_ONCE)

        store.resolve_failure(RUN, "1")
        store.resolve_failure(RUN, "never failed")

        assert keys(store.load_failures(RUN)) == ["2"]

    def test_failures_are_counted_and_loaded_by_run_and_shard(
        self, store: Store
    ) -> None:
        for run_id in (RUN, OTHER):
            start(store, shards=2, run_id=run_id)
            for number in range(6):
                one = failure(str(number), shard=number % 2, run_id=run_id)
                record(store, one, delay=AT_ONCE)
        store.resolve_failure(OTHER, "0")

        assert (store.count_failures(RUN), store.count_failures(OTHER)) == (6, 5)
        assert set(keys(store.load_failures(RUN))) == set("012345")
        assert set(keys(store.load_failures(RUN, shard=1))) == set("135")
        assert len(store.load_failures(RUN, limit=4)) == 4

    # waiting_failures

    def test_rows_that_are_due_come_the_longest_first(self, store: Store) -> None:
        start(store, shards=2)
        for minutes, key in ((-1, "late"), (-3, "later"), (30, "not yet"), (-2, "b")):
            record(store, failure(key), delay=timedelta(minutes=minutes))
        record(store, failure("elsewhere", shard=1), delay=AT_ONCE)
        record(store, failure("given up", FailureState.FAILED), delay=AT_ONCE)

        due, seconds = store.waiting_failures(RUN, 0, limit=9)

        assert keys(due) == ["later", "b", "late"]
        assert seconds is not None
        assert 0 < seconds <= 30 * 60

    def test_a_limit_leaves_rows_that_are_due_for_at_once(self, store: Store) -> None:
        start(store)
        for minutes, key in ((-3, "1"), (-2, "2"), (-1, "3"), (30, "4")):
            record(store, failure(key), delay=timedelta(minutes=minutes))

        due, seconds = store.waiting_failures(RUN, 0, limit=2)

        assert (keys(due), seconds) == (["1", "2"], 0.0)

    def test_there_is_nothing_to_wait_for_when_no_row_waits(self, store: Store) -> None:
        start(store)
        assert store.waiting_failures(RUN, 0, limit=9) == ([], None)

        record(store, failure("1"), delay=-HALF_AN_HOUR)
        due, seconds = store.waiting_failures(RUN, 0, limit=1)
        assert (keys(due), seconds) == (["1"], None)

    # reopen_failures

    def test_rows_that_were_given_up_are_opened_again(self, store: Store) -> None:
        start(store)
        given_up = walked("9", done=5, failed=2, skipped=1)
        store.complete(take(store), given_up)
        record(store, failure("1", FailureState.FAILED, attempts=9), delay=HALF_AN_HOUR)
        record(store, failure("2", FailureState.KILLED), delay=HALF_AN_HOUR)
        record(store, failure("3"), delay=HALF_AN_HOUR)

        assert store.reopen_failures(RUN) == 2

        shard = load_shard(store)
        assert (shard.state, shard.seq) == (ShardState.WAITING, 1)
        assert (shard.done, shard.failed, shard.skipped) == (5, 0, 1)
        due, _ = store.waiting_failures(RUN, 0, limit=9)
        assert set(keys(due)) == {"1", "2"}
        assert {one.state for one in store.load_failures(RUN)} == {FailureState.WAITING}
        assert [one.attempts for one in due] == [0, 0]
        assert store.reopen_failures(RUN) == 0

    def test_a_row_that_stopped_the_run_is_not_opened(self, store: Store) -> None:
        start(store)
        stopper = failure("1", FailureState.STOPPED)
        record(store, stopper, delay=AT_ONCE)

        assert store.reopen_failures(RUN) == 0
        assert store.waiting_failures(RUN, 0, limit=9) == ([], None)
        assert [one.state for one in store.load_failures(RUN)] == [stopper.state]

    def test_skipped_rows_are_lowered_when_more_were_opened_than_failed(
        self, store: Store
    ) -> None:
        start(store)
        store.complete(take(store), walked("9", done=5, failed=1, skipped=3))
        for key in ("1", "2", "3"):
            record(store, failure(key, FailureState.FAILED), delay=AT_ONCE)

        store.reopen_failures(RUN)

        assert (load_shard(store).failed, load_shard(store).skipped) == (0, 1)

    def test_only_shards_with_such_rows_are_opened(self, store: Store) -> None:
        start(store, shards=3)
        for index in range(3):
            finish(store, index)
        record(store, failure("1", FailureState.FAILED, shard=1), delay=AT_ONCE)

        store.reopen_failures(RUN)

        assert [shard.state for shard in store.load_shards(RUN)] == [
            ShardState.DONE,
            ShardState.WAITING,
            ShardState.DONE,
        ]
        assert not store.try_finalize(RUN)

    def test_many_rows_are_opened_at_once(self, store: Store) -> None:
        start(store, shards=2)
        for number in range(90):
            one = failure(str(number), FailureState.FAILED, shard=number % 2)
            record(store, one, delay=AT_ONCE)

        assert store.reopen_failures(RUN) == 90
        assert store.reopen_failures(RUN) == 0

    # discard_failures

    def test_rows_that_were_given_up_are_discarded_and_their_counts_stay(
        self, store: Store
    ) -> None:
        start(store)
        start(store, run_id=OTHER)
        store.complete(take(store), walked("9", done=5, failed=1, skipped=1))
        for run_id in (RUN, OTHER):
            for state in FailureState:
                one = failure(state.value, state, run_id=run_id)
                record(store, one, delay=AT_ONCE)
        before = load_shard(store)

        assert store.discard_failures(RUN) == 2

        kept = {FailureState.WAITING, FailureState.STOPPED}
        assert {one.state for one in store.load_failures(RUN)} == kept
        assert store.count_failures(RUN, given_up=True) == 0
        assert store.count_failures(OTHER, given_up=True) == 2
        assert load_shard(store) == before
        assert (store.discard_failures(RUN), store.reopen_failures(RUN)) == (0, 0)
        assert store.discard_failures("c" * 32) == 0

    def test_many_rows_are_discarded_at_once(self, store: Store) -> None:
        start(store, shards=2)
        for number in range(40):
            one = failure(str(number), FailureState.FAILED, shard=number % 2)
            record(store, one, delay=AT_ONCE)

        assert store.discard_failures(RUN) == 40
        assert store.load_failures(RUN) == []

    def test_runs_with_rows_that_were_given_up_are_found(self, store: Store) -> None:
        states = {
            "a" * 32: FailureState.FAILED,
            "b" * 32: FailureState.KILLED,
            "c" * 32: FailureState.WAITING,
            "d" * 32: FailureState.STOPPED,
        }
        for seconds, (run_id, state) in enumerate(states.items()):
            with clock.ahead(seconds):
                start(store, shards=2, run_id=run_id)
            for key in ("1", "2"):
                one = failure(key, state, shard=int(key) - 1, run_id=run_id)
                record(store, one, delay=AT_ONCE)

        assert [one.id for one in store.runs_with_failures(9)] == ["b" * 32, "a" * 32]
        assert store.ids_with_failures(1) == ["a" * 32]
        assert store.ids_with_failures(0) == []
        store.discard_failures("a" * 32)
        assert store.ids_with_failures(9) == ["b" * 32]

    def test_whoever_walks_a_shard_that_was_opened_again_has_lost_it(
        self, store: Store
    ) -> None:
        start(store)
        shard = take(store)
        record(store, failure("1", FailureState.FAILED), delay=AT_ONCE)

        store.reopen_failures(RUN)

        assert not store.checkpoint(shard, walked("1"), lease=LEASE)
        assert take(store, seq=1).fence == shard.fence + 1


class SweepingContract:
    # stale_shards

    def test_a_shard_that_nothing_touched_is_found(self, store: Store) -> None:
        start(store, shards=2)
        with clock.ahead(AN_HOUR):
            store.bump_shard(load_shard(store, 1))
            [found] = store.stale_shards(older_than=HALF_AN_HOUR, limit=9)

        assert whole(store, [found]) == [load_shard(store, 0)]

    def test_a_shard_that_was_touched_lately_is_not_lost(self, store: Store) -> None:
        start(store)

        assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []

    def test_the_holder_of_a_live_lease_is_not_lost(self, store: Store) -> None:
        start(store)
        shard = store.acquire(RUN, 0, 0, lease=timedelta(hours=3))

        with clock.ahead(AN_HOUR):
            assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []
        with clock.ahead(4 * AN_HOUR):
            found = store.stale_shards(older_than=HALF_AN_HOUR, limit=9)
            assert whole(store, found) == [shard]

    def test_shards_that_are_done_are_not_lost(self, store: Store) -> None:
        start(store)
        finish(store)

        with clock.ahead(AN_HOUR):
            assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []

    def test_shards_of_a_run_that_does_not_run_are_not_lost(self, store: Store) -> None:
        start(store)
        move(store, RunState.PAUSED)

        with clock.ahead(AN_HOUR):
            assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []

    def test_a_shard_that_waits_for_a_row_is_not_lost(self, store: Store) -> None:
        start(store)
        store.release(take(store), walked("9", is_walked=True))
        record(store, failure("1"), delay=timedelta(hours=3))

        with clock.ahead(AN_HOUR):
            assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []
        with clock.ahead(4 * AN_HOUR):
            assert len(store.stale_shards(older_than=HALF_AN_HOUR, limit=9)) == 1

    def test_a_shard_with_keys_left_does_not_wait_for_a_row(self, store: Store) -> None:
        start(store)
        store.release(take(store), walked("5"))
        record(store, failure("1"), delay=timedelta(hours=3))

        with clock.ahead(AN_HOUR):
            assert len(store.stale_shards(older_than=HALF_AN_HOUR, limit=9)) == 1

    def test_shards_that_wait_do_not_use_the_limit_up(self, store: Store) -> None:
        start(store, shards=3)
        for index in (0, 1):
            store.release(take(store, index), walked("9", is_walked=True))
            one = failure(str(index), shard=index)
            record(store, one, delay=timedelta(hours=3))
        with clock.ahead(60):
            store.bump_shard(load_shard(store, 2))
        with clock.ahead(AN_HOUR):
            found = store.stale_shards(older_than=HALF_AN_HOUR, limit=1)

        assert [shard.index for shard in found] == [2]

    def test_the_shards_that_wait_the_longest_are_found_first(
        self, store: Store
    ) -> None:
        for seconds, run_id in ((60.0, RUN), (0.0, OTHER)):
            with clock.ahead(seconds):
                start(store, run_id=run_id)
        with clock.ahead(AN_HOUR):
            found = store.stale_shards(older_than=HALF_AN_HOUR, limit=9)
            [first] = store.stale_shards(older_than=HALF_AN_HOUR, limit=1)

        assert [shard.run for shard in found] == [OTHER, RUN]
        assert first == found[0]

    def test_those_given_up_are_counted_apart(self, store: Store) -> None:
        start(store)
        start(store, run_id=OTHER)
        for run_id, state in (
            (RUN, FailureState.WAITING),
            (RUN, FailureState.FAILED),
            (RUN, FailureState.KILLED),
            (RUN, FailureState.STOPPED),
            (OTHER, FailureState.WAITING),
        ):
            one = failure(state.value, state, run_id=run_id)
            record(store, one, delay=AT_ONCE)

        assert store.count_failures(RUN) == 4
        assert store.count_failures(RUN, given_up=True) == 2
        assert store.count_failures(OTHER, given_up=True) == 0

    # sweeps

    def test_patience_doubles_with_each_sweep(self, store: Store) -> None:
        start(store)
        store.bump_shard(load_shard(store), sweeps=2)

        with clock.ahead(1.9 * AN_HOUR):
            assert store.stale_shards(older_than=HALF_AN_HOUR, limit=9) == []
        with clock.ahead(2.1 * AN_HOUR):
            [found] = store.stale_shards(older_than=HALF_AN_HOUR, limit=9)
        assert found.sweeps == 2

    def test_a_task_that_comes_ends_the_sweeps(self, store: Store) -> None:
        start(store)
        store.bump_shard(load_shard(store), sweeps=9)
        assert take(store, seq=1).sweeps == 0
        store.bump_shard(load_shard(store), sweeps=9)
        store.touch_shard(load_shard(store))

        assert load_shard(store).sweeps == 0

    # old_runs

    @pytest.mark.parametrize("state", list(RunState))
    def test_a_run_that_ended_long_ago_is_old(
        self, store: Store, state: RunState
    ) -> None:
        create(store, state=state)
        with clock.ahead(AN_HOUR):
            create(store, OTHER, state=state)
            found = store.old_runs(HALF_AN_HOUR, 9)

        assert found == ([RUN] if state in ENDED else [])

    def test_a_run_that_never_was_due_is_old_after_a_while(self, store: Store) -> None:
        create(store, delay=None)

        assert store.old_runs(HALF_AN_HOUR, 9) == []
        with clock.ahead(AN_HOUR):
            assert store.old_runs(HALF_AN_HOUR, 9) == [RUN]
            assert store.old_runs(HALF_AN_HOUR, 0) == []

    # stale_runs

    @pytest.mark.parametrize("state", list(RunState))
    def test_a_run_that_owes_its_next_step_is_found(
        self, store: Store, state: RunState
    ) -> None:
        create(store, state=state, description=b"what")
        with clock.ahead(AN_HOUR):
            found = store.stale_runs(older_than=HALF_AN_HOUR, limit=9)

        owing = {
            RunState.WAITING,
            RunState.PLANNING,
            RunState.RUNNING,  # it has no undone shard
            RunState.FINALIZING,
            RunState.CANCELLED,
            RunState.ABORTED,
        }
        assert found == ([load(store)] if state in owing else [])

    def test_a_run_that_was_touched_lately_is_not_lost(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)

        assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []

    def test_a_run_that_waits_is_lost_when_it_was_due_long_ago(
        self, store: Store
    ) -> None:
        for run_id, delay in ((RUN, timedelta(hours=2)), (OTHER, None)):
            create(store, run_id, delay=delay)

        with clock.ahead(2 * AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []
        with clock.ahead(3 * AN_HOUR):
            found = store.stale_runs(older_than=HALF_AN_HOUR, limit=9)
        assert [run.id for run in found] == [RUN]

    @pytest.mark.parametrize("state", [RunState.FINALIZING, *sorted(STOPPED)])
    def test_a_run_whose_next_call_is_not_due_is_not_lost(
        self, store: Store, state: RunState
    ) -> None:
        create(store, state=state)
        run = store.acquire_run(RUN, state=state, lease=LEASE)
        assert run is not None
        store.settle_run(run, to=None, delay=timedelta(hours=2))

        with clock.ahead(2 * AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []
        with clock.ahead(3 * AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == [load(store)]

    def test_a_run_that_is_touched_is_not_lost(self, store: Store) -> None:
        before = create(store, state=RunState.FINALIZING)
        store.touch_run(OTHER)
        with clock.ahead(AN_HOUR):
            store.touch_run(RUN)

            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []
        assert load(store) == before

    def test_a_run_that_is_not_planned_to_the_end_is_lost(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 1), total=10, rest="from 10")

        with clock.ahead(AN_HOUR):
            found = store.stale_runs(older_than=HALF_AN_HOUR, limit=9)
        assert found == [load(store)]

    def test_a_run_with_undone_shards_is_not_lost(self, store: Store) -> None:
        start(store, shards=2)
        finish(store, 0)
        with clock.ahead(AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []
        finish(store, 1)
        with clock.ahead(AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == [load(store)]

    def test_a_run_whose_lease_lives_is_not_lost(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        store.acquire_run(RUN, state=RunState.FINALIZING, lease=timedelta(hours=3))

        with clock.ahead(AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []

    def test_a_stopped_run_that_is_settled_is_not_lost(self, store: Store) -> None:
        create(store, state=RunState.CANCELLED)
        run = store.acquire_run(RUN, state=RunState.CANCELLED, lease=LEASE)
        assert run is not None
        store.settle_run(run, to=RunState.CANCELLED)

        with clock.ahead(AN_HOUR):
            assert store.stale_runs(older_than=HALF_AN_HOUR, limit=9) == []

    def test_the_runs_that_wait_the_longest_are_found_first(self, store: Store) -> None:
        for seconds, run_id in ((60.0, RUN), (0.0, OTHER)):
            with clock.ahead(seconds):
                create(store, run_id, RunState.PLANNING)
        with clock.ahead(AN_HOUR):
            [first] = store.stale_runs(older_than=HALF_AN_HOUR, limit=1)

        assert first.id == OTHER
