"""The contract of every store for runs. A test module makes a subclass and the fixture
`store`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloudtask.runs import ENDED, RUN_TRANSITIONS, RunState, Shard
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
    load,
    move,
    record,
    shards_of,
    start,
    take,
    walked,
    whole,
)
from tests.support import clock

PAIRS = [(before, to) for before in RunState for to in RunState]


class RunsContract:
    # create_run, load_run, list_runs

    def test_a_run_is_loaded_as_it_was_created(self, store: Store) -> None:
        run = create(store, description=b"\x00\xff what to walk", keep=True)

        assert (run.id, run.task, run.queue) == (RUN, "app.tasks.walk", "default")
        assert (run.state, run.description) == (
            RunState.WAITING,
            b"\x00\xff what to walk",
        )
        assert run.keep
        assert not run.is_planned
        assert run.created_at is not None
        assert run.created_at.tzinfo is not None

    def test_there_is_no_run_that_was_not_created(self, store: Store) -> None:
        assert store.load_run(RUN) is None

    def test_a_description_may_take_megabytes(self, store: Store) -> None:
        large = bytes(range(256)) * 10_000

        assert create(store, description=large).description == large
        [listed] = store.list_runs(states=[], limit=1)
        assert listed.description == large

    def test_runs_are_listed_newest_first(self, store: Store) -> None:
        create(store, OTHER)
        with clock.ahead(AN_HOUR):
            create(store, RUN)

        assert [run.id for run in store.list_runs(states=[], limit=9)] == [RUN, OTHER]
        assert [run.id for run in store.list_runs(states=[], limit=1)] == [RUN]

    def test_runs_are_listed_by_state(self, store: Store) -> None:
        for seconds, state in enumerate(RunState):
            with clock.ahead(seconds):
                create(store, state.value, state)
        wanted = [RunState.RUNNING, RunState.PAUSED, RunState.CANCELLED]

        listed = store.list_runs(states=wanted, limit=2)

        assert [run.id for run in listed] == ["cancelled", "paused"]

    # change_run

    @pytest.mark.parametrize(("before", "to"), PAIRS)
    def test_a_state_changes_along_the_table_only(
        self, store: Store, before: RunState, to: RunState
    ) -> None:
        create(store, state=before)

        changed = store.change_run(RUN, to=to, only_from=list(RunState))

        assert changed == (to in RUN_TRANSITIONS[before])
        assert load(store).state is (to if changed else before)

    def test_a_change_from_another_state_changes_nothing(self, store: Store) -> None:
        before = create(store, state=RunState.RUNNING, description=b"d", error="e")

        assert not store.change_run(
            RUN,
            to=RunState.PAUSED,
            only_from=[RunState.PLANNING, RunState.WAITING],
            error="other",
            description=b"other",
        )
        assert load(store) == before

    def test_a_run_that_is_not_there_is_not_changed(self, store: Store) -> None:
        assert not store.change_run(RUN, to=RunState.PAUSED, only_from=list(RunState))

    def test_a_change_lets_the_generation_grow(self, store: Store) -> None:
        before = create(store)

        move(store, RunState.PLANNING)

        assert load(store).generation == before.generation + 1

    def test_a_change_of_another_generation_changes_nothing(self, store: Store) -> None:
        before = create(store)
        states = {"to": RunState.PAUSED, "only_from": [RunState.WAITING]}

        assert not store.change_run(RUN, **states, generation=before.generation + 1)
        assert load(store) == before
        assert store.change_run(RUN, **states, generation=before.generation)

    def test_in_a_new_state_nothing_was_called_yet(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING, attempts=3)

        move(store, RunState.FAILED)

        assert (load(store).attempts, load(store).due_at) == (0, None)

    def test_in_a_new_state_the_run_waits_for_nothing(self, store: Store) -> None:
        create(store, waiting="no task of this name")

        move(store, RunState.PLANNING)

        assert load(store).waiting == ""

    def test_error_and_description_stay_unless_given(self, store: Store) -> None:
        create(store, description=b"what", error="why")

        move(store, RunState.PLANNING)

        assert (load(store).description, load(store).error) == (b"what", "why")

    def test_error_and_description_are_replaced_when_given(self, store: Store) -> None:
        create(store, description=b"w" * 3_000_000, error="why")

        store.change_run(
            RUN,
            to=RunState.PAUSED,
            only_from=[RunState.WAITING],
            error="",
            description=b"n" * 2_000_000,
        )

        assert (load(store).description, load(store).error) == (b"n" * 2_000_000, "")

    def test_started_at_is_when_it_first_ran(self, store: Store) -> None:
        create(store, state=RunState.PAUSED)
        move(store, RunState.RUNNING)
        first = load(store).started_at
        with clock.ahead(AN_HOUR):
            move(store, RunState.PAUSED)
            move(store, RunState.RUNNING)

        assert first is not None
        assert load(store).started_at == first

    # add_part

    def test_a_plan_starts_a_run_that_is_planning(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)

        assert store.add_part(RUN, 0, shards_of(RUN, 3), total=30)

        run = load(store)
        assert (run.state, run.is_planned, run.total) == (RunState.RUNNING, True, 30)
        assert run.started_at is not None
        assert whole(store, store.load_shards(RUN)) == shards_of(RUN, 3)

    def test_a_plan_is_set_once(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 3), total=30)

        assert not store.add_part(RUN, 0, shards_of(RUN, 5), total=50)
        assert (load(store).total, len(store.load_shards(RUN))) == (30, 3)

    def test_a_run_that_was_paused_stays_so_when_planned(self, store: Store) -> None:
        create(store, state=RunState.PAUSED)

        assert store.add_part(RUN, 0, shards_of(RUN, 1), total=10)
        assert (load(store).state, load(store).is_planned) == (RunState.PAUSED, True)

    @pytest.mark.parametrize("state", sorted(ENDED))
    def test_a_run_that_has_ended_is_not_planned(
        self, store: Store, state: RunState
    ) -> None:
        before = create(store, state=state)

        assert not store.add_part(RUN, 0, shards_of(RUN, 1), total=10)
        assert load(store) == before
        assert store.load_shards(RUN) == []

    def test_a_run_that_is_not_there_is_not_planned(self, store: Store) -> None:
        assert not store.add_part(RUN, 0, shards_of(RUN, 1), total=10)

    def test_a_plan_may_have_no_shards_or_hundreds(self, store: Store) -> None:
        for run_id, count in ((RUN, 0), (OTHER, 256)):
            create(store, run_id, RunState.PLANNING)
            assert store.add_part(run_id, 0, shards_of(run_id, count), total=count * 10)
            found = whole(store, store.load_shards(run_id))
            assert found == shards_of(run_id, count)

    def test_a_plan_may_come_in_parts(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)

        assert store.add_part(RUN, 0, shards_of(RUN, 2), total=20, rest="from 20")
        run = load(store)
        assert (run.state, run.is_planned) == (RunState.RUNNING, False)
        assert (run.part, run.rest, run.total) == (1, "from 20", 20)
        assert store.add_part(RUN, 1, shards_of(RUN, 3), total=30)

        run = load(store)
        assert (run.state, run.is_planned) == (RunState.RUNNING, True)
        assert (run.part, run.rest, run.total) == (2, None, 50)
        assert [shard.index for shard in store.load_shards(RUN)] == [0, 1, 2, 3, 4]

    def test_a_total_is_an_estimate_once_a_part_of_it_is(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 1), total=10, rest="r")
        assert not load(store).is_estimated
        store.add_part(RUN, 1, shards_of(RUN, 1), total=10, is_estimated=True, rest="r")
        store.add_part(RUN, 2, shards_of(RUN, 1), total=10)

        assert load(store).is_estimated

    @pytest.mark.parametrize("part", [0, 2])
    def test_a_part_is_added_once_and_in_its_turn(
        self, store: Store, part: int
    ) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 2), total=20, rest="from 20")
        before = load(store)

        assert not store.add_part(RUN, part, shards_of(RUN, 3), total=30)
        assert load(store) == before
        assert len(store.load_shards(RUN)) == 2

    def test_a_part_comes_behind_shards_that_were_split(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 2), total=20, rest="from 20")
        half = Shard(run=RUN, index=0, low="15", high="20", expected=5)
        made = store.release(take(store, 1), walked("12", done=2), split=half)

        assert made is not None
        assert store.add_part(RUN, 1, shards_of(RUN, 1), total=10)
        assert [shard.index for shard in store.load_shards(RUN)] == [0, 1, 2, 3]

    def test_a_run_that_is_not_planned_to_the_end_does_not_finalize(
        self, store: Store
    ) -> None:
        create(store, state=RunState.PLANNING)
        store.add_part(RUN, 0, shards_of(RUN, 1), total=10, rest="from 10")
        finish(store, 0)

        assert not store.try_finalize(RUN)
        store.add_part(RUN, 1, [], total=0)
        assert store.try_finalize(RUN)

    # try_finalize

    def test_a_run_finalizes_when_no_shard_is_undone(self, store: Store) -> None:
        generation = start(store, shards=2).generation
        finish(store, 0)
        assert not store.try_finalize(RUN)
        finish(store, 1)

        assert store.try_finalize(RUN)
        assert load(store).state is RunState.FINALIZING
        assert load(store).generation == generation + 1
        assert not store.try_finalize(RUN)

    def test_a_run_that_finalizes_was_not_called_yet(self, store: Store) -> None:
        create(store, state=RunState.RUNNING, is_planned=True, attempts=3)

        assert store.try_finalize(RUN)
        assert (load(store).attempts, load(store).due_at) == (0, None)

    def test_a_run_without_shards_finalizes(self, store: Store) -> None:
        start(store, shards=0)

        assert store.try_finalize(RUN)

    def test_a_run_without_a_plan_does_not_finalize(self, store: Store) -> None:
        create(store, state=RunState.RUNNING)

        assert not store.try_finalize(RUN)
        assert not store.try_finalize(OTHER)

    def test_a_run_that_is_paused_does_not_finalize(self, store: Store) -> None:
        start(store, shards=0)
        move(store, RunState.PAUSED)

        assert not store.try_finalize(RUN)

    def test_shards_of_other_runs_do_not_matter(self, store: Store) -> None:
        start(store, shards=0)
        start(store, shards=1, run_id=OTHER)

        assert store.try_finalize(RUN)
        assert not store.try_finalize(OTHER)

    def test_a_shard_in_work_holds_finalize_up(self, store: Store) -> None:
        start(store)
        take(store)

        assert not store.try_finalize(RUN)

    # acquire_run, settle_run

    def test_the_lease_of_a_run_is_taken_by_one(self, store: Store) -> None:
        before = create(store, state=RunState.FINALIZING, description=b"what")

        run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)

        assert run is not None
        assert (run.fence, run.description) == (before.fence + 1, b"what")
        assert run.lease_until is not None
        assert store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE) is None

    def test_a_lease_that_is_over_is_taken_by_another(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        first = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
        with clock.ahead(AN_HOUR):
            second = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)

        assert first is not None
        assert second is not None
        assert second.fence == first.fence + 1
        assert not store.settle_run(first, to=RunState.FINISHED)
        assert load(store).state is RunState.FINALIZING
        assert store.settle_run(second, to=RunState.FINISHED)

    def test_the_lease_of_a_run_in_another_state_is_not_to_be_had(
        self, store: Store
    ) -> None:
        create(store, state=RunState.RUNNING)

        assert store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE) is None
        assert store.acquire_run(OTHER, state=RunState.FINALIZING, lease=LEASE) is None

    def test_a_lease_that_is_taken_for_a_call_is_counted(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        counts = []
        for is_call in (True, False, True):
            run = store.acquire_run(
                RUN, state=RunState.FINALIZING, lease=LEASE, is_call=is_call
            )
            assert run is not None
            store.settle_run(run, to=None)
            counts.append(run.attempts)

        assert counts == [1, 1, 2]
        assert load(store).attempts == 2

    def test_settling_ends_the_lease_and_the_run(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
        assert run is not None

        assert store.settle_run(run, to=RunState.FINISHED)
        assert load(store).state is RunState.FINISHED
        assert load(store).lease_until is None
        assert load(store).finished_at is not None

    def test_settling_without_a_state_ends_the_lease_only(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
        assert run is not None

        assert store.settle_run(run, to=None, waiting="finalize: it raised")
        assert load(store).state is RunState.FINALIZING
        assert (load(store).waiting, load(store).finished_at) == (
            "finalize: it raised",
            None,
        )
        assert store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)

    def test_settling_replaces_the_error_only_if_one_is_given(
        self, store: Store
    ) -> None:
        create(store, state=RunState.ABORTED, error="row 1 raised", waiting="w")
        for given, expected in ((None, "row 1 raised"), ("", ""), ("new", "new")):
            run = store.acquire_run(RUN, state=RunState.ABORTED, lease=LEASE)
            assert run is not None
            store.settle_run(run, to=None, error=given)
            assert (load(store).error, load(store).waiting) == (expected, "")

    def test_settling_may_tell_when_the_next_call_is_due(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
        assert run is not None

        assert store.settle_run(run, to=None, delay=timedelta(hours=2))
        due = load(store).due_at
        assert due is not None
        assert due.timestamp() - clock.now() == pytest.approx(2 * AN_HOUR, abs=60)
        assert store.settle_run(run, to=None)
        assert load(store).due_at == due
        assert store.settle_run(run, to=RunState.FINISHED)
        assert load(store).due_at is None

    def test_a_run_that_failed_has_not_finished(self, store: Store) -> None:
        create(store, state=RunState.FINALIZING)
        run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
        assert run is not None

        assert store.settle_run(run, to=RunState.FAILED, error="finalize: it raised")
        assert load(store).state is RunState.FAILED
        assert load(store).finished_at is None

    def test_finished_at_stays_from_the_first_end_on(self, store: Store) -> None:
        ends = []
        create(store, state=RunState.FINALIZING, is_planned=True)
        for seconds in (0.0, AN_HOUR):
            with clock.ahead(seconds):
                run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
                assert run is not None
                store.settle_run(run, to=RunState.FINISHED)
                ends.append(load(store).finished_at)
                move(store, RunState.PAUSED)
                move(store, RunState.RUNNING)
                store.try_finalize(RUN)

        assert ends[0] is not None
        assert ends == [ends[0], ends[0]]

    @pytest.mark.parametrize("state", [RunState.CANCELLED, RunState.ABORTED])
    def test_a_run_that_was_stopped_is_settled_in_its_state(
        self, store: Store, state: RunState
    ) -> None:
        create(store, state=state)
        run = store.acquire_run(RUN, state=state, lease=LEASE)
        assert run is not None

        assert store.settle_run(run, to=state)
        assert (load(store).state, load(store).finished_at is None) == (state, False)

    def test_settling_does_not_undo_a_cancellation(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        run = store.acquire_run(RUN, state=RunState.PLANNING, lease=LEASE)
        assert run is not None
        move(store, RunState.CANCELLED)

        assert not store.settle_run(run, to=RunState.FAILED)
        assert load(store).state is RunState.CANCELLED

    # set_pace

    def test_the_pace_of_a_run_is_set_and_forgotten(self, store: Store) -> None:
        start(store)
        before = load(store)

        store.set_pace(RUN, leg_limit=7.5, killed_after=15.25)
        assert (load(store).leg_limit, load(store).killed_after) == (7.5, 15.25)
        store.set_pace(RUN, leg_limit=None, killed_after=None)

        assert load(store) == before
        store.set_pace(OTHER, leg_limit=1.0, killed_after=1.0)

    # summarize_run

    def test_a_summary_keeps_the_counts_and_nothing_else(self, store: Store) -> None:
        create(store, state=RunState.PLANNING, description=b"w" * 2_000_000)
        store.add_part(RUN, 0, shards_of(RUN, 3), total=30)
        for index in range(3):
            shard = take(store, index)
            assert store.complete(shard, walked("9", 7, 2, 1))
        record(store, failure("1"), delay=AT_ONCE)
        store.try_finalize(RUN)
        move(store, RunState.FINISHED)
        start(store, shards=2, run_id=OTHER)

        for _ in range(2):  # a call that was interrupted is repeated
            store.summarize_run(RUN)

        run = load(store)
        assert (run.done, run.failed, run.skipped) == (21, 6, 3)
        assert (run.state, run.is_summary) == (RunState.FINISHED, True)
        assert (run.description, run.total) == (b"", 30)
        assert store.load_shards(RUN) == []
        assert store.load_failures(RUN) == []
        assert len(store.load_shards(OTHER)) == 2

    def test_a_run_that_has_not_finished_is_not_summarized(self, store: Store) -> None:
        before = start(store, shards=2)

        store.summarize_run(RUN)
        store.summarize_run(OTHER)

        assert load(store) == before
        assert len(store.load_shards(RUN)) == 2

    # bump_run

    def test_a_run_is_renumbered_once(self, store: Store) -> None:
        run = create(store, state=RunState.PLANNING, description=b"what")

        bumped = store.bump_run(run)

        assert bumped is not None
        assert (bumped.generation, bumped.description) == (run.generation + 1, b"what")
        assert bumped == load(store)
        assert store.bump_run(run) is None

    def test_a_run_whose_lease_lives_is_not_renumbered(self, store: Store) -> None:
        create(store, state=RunState.PLANNING)
        run = store.acquire_run(RUN, state=RunState.PLANNING, lease=LEASE)
        assert run is not None

        assert store.bump_run(run) is None
        with clock.ahead(AN_HOUR):
            assert store.bump_run(run) is not None

    # delete_run

    def test_a_run_is_deleted_with_all_that_is_its_own(self, store: Store) -> None:
        for run_id in (RUN, OTHER):
            start(store, shards=3, run_id=run_id)
            record(store, failure("1", run_id=run_id), delay=AT_ONCE)

        store.delete_run(RUN)

        assert store.load_run(RUN) is None
        assert store.load_shards(RUN) == []
        assert store.count_failures(RUN) == 0
        assert len(store.load_shards(OTHER)) == 3
        assert store.count_failures(OTHER) == 1
        store.delete_run(RUN)

    def test_whoever_walks_a_run_that_was_deleted_has_lost_it(
        self, store: Store
    ) -> None:
        start(store)
        shard = take(store)
        store.delete_run(RUN)

        assert not store.checkpoint(shard, walked("1"), lease=timedelta(1))
        assert not store.complete(shard, walked("1"))
        assert not store.try_finalize(RUN)
