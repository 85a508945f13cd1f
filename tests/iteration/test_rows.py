"""Rows that raise, kill their process, vanish, change or take long."""

from __future__ import annotations

from collections import Counter

import pytest

from cloudtask import PermanentTaskFailure, Retry, clock
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState
from cloudtask.runs import FailureState
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.iteration.tasks import trace
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.django_db


def walk(world, task=tasks.visit, **policy):
    policy = {"keep": True, "finalize": tasks.finalize, "shards": 2, **policy}
    run = task.iterate(Thing.objects.all(), transactional=False, **policy)
    world.run()
    return run.refresh()


def counts(run):
    report = run.report()
    return report.done, report.failed, report.skipped


class TestRowsThatChangeThemselves:
    @pytest.mark.parametrize("task", [tasks.delete_row, tasks.forget_key])
    def test_a_callback_may_delete_its_row_or_its_key(self, world, things, task):
        keys = things(700)

        run = walk(world, task)

        assert sorted(trace.rows) == keys
        assert counts(run) == (700, 0, 0)

    def test_a_callback_may_save_a_copy_of_its_row(self, world, things):
        keys = things(30)

        walk(world, tasks.copy_row)

        assert sorted(trace.rows) == keys
        assert Thing.objects.count() == 60

    def test_rows_deleted_meanwhile_are_not_called(self, world, things):
        things(500)
        run = tasks.visit.iterate(Thing.objects.all(), shards=4, transactional=False)
        Thing.objects.filter(id__gt=250).delete()

        world.run()

        assert sorted(trace.rows) == list(range(1, 251))
        assert run.refresh().state is RunState.FINISHED

    def test_rows_added_meanwhile_are_left_out(self, world, things):
        things(600)
        tasks.visit.iterate(Thing.objects.all(), shards=3, transactional=False)
        world.step()
        Thing.objects.create(id=10_000)

        world.run()

        assert 10_000 not in trace.rows

    def test_rows_added_meanwhile_are_walked_if_asked_for(self, world, things):
        things(600)
        tasks.visit.iterate(
            Thing.objects.all(), shards=3, include_new=True, transactional=False
        )
        world.step()
        Thing.objects.create(id=10_000)

        world.run()

        assert trace.rows.count(10_000) == 1


class TestRowsThatRaise:
    def test_a_row_that_raised_is_tried_again_while_the_others_go_on(
        self, world, things
    ):
        things(10)
        trace.raises[3] = [ValueError("no"), ValueError("no")]

        run = walk(world)

        assert Counter(trace.rows) == Counter({**dict.fromkeys(range(1, 11), 1), 3: 3})
        assert counts(run) == (10, 0, 0)
        assert run.failures() == []
        assert trace.calls[-1] == "finalize"

    def test_a_row_that_asks_for_it_is_tried_again_after_its_delay(self, world, things):
        things(3)
        trace.raises[2] = [Retry(delay=3000)]
        started = clock.now()

        run = walk(world)

        assert clock.now() - started > 3000
        assert counts(run) == (3, 0, 0)

    def test_a_delay_beyond_what_cloud_tasks_takes_is_waited_for_in_parts(
        self, world, things
    ):
        things(1)
        trace.raises[1] = [Retry(delay=40 * 86400)]

        run = walk(world)

        assert trace.rows == [1, 1]
        assert counts(run) == (1, 0, 0)

    def test_a_row_that_can_not_succeed_is_kept_and_the_run_finishes(
        self, world, things
    ):
        things(4)
        trace.raises[2] = [PermanentTaskFailure("never")]

        run = walk(world)

        [failure] = run.failures()
        assert (failure.key, failure.state) == ("2", FailureState.FAILED)
        assert "never" in failure.error
        assert counts(run) == (3, 1, 0)

    def test_a_row_is_given_up_after_the_attempts_that_the_call_allows(
        self, world, things
    ):
        things(2)
        trace.raises[1] = [ValueError("no")] * 9

        run = walk(world, tasks.visit.using(max_attempts=3))

        assert trace.rows.count(1) == 3
        assert counts(run) == (1, 1, 0)

    def test_rows_that_raise_are_skipped_if_asked_for(self, world, things):
        things(4)
        trace.raises[2] = [ValueError("no")]

        run = walk(world, on_error="skip")

        assert counts(run) == (3, 0, 1)
        assert len(run.failures()) == 1

    def test_a_row_that_raises_pauses_the_run_before_it(self, world, things):
        things(4)
        trace.raises[2] = [ValueError("no")]

        run = walk(world, on_error="pause", shards=1)
        assert (run.state, trace.rows) == (RunState.PAUSED, [1, 2])
        assert "ValueError: no" in run.error
        run.resume()
        world.run()

        assert trace.rows == [1, 2, 2, 3, 4]
        assert run.refresh().state is RunState.FINISHED

    def test_a_row_that_raises_aborts_the_run_and_on_failure_runs(self, world, things):
        things(4)
        trace.raises[2] = [ValueError("no")]

        tasks.visit.iterate(
            Thing.objects.all(),
            shards=1,
            on_error="abort",
            on_failure=tasks.on_failure,
            finalize=tasks.finalize,
            transactional=False,
        )
        world.drain()  # no sweeper

        assert trace.calls == [1, 2, "on_failure"]

    @pytest.mark.parametrize("limit", [2, 0.05])
    def test_too_many_failures_pause_the_run(self, world, things, limit):
        things(40)
        trace.raises.update({key: [ValueError("no")] for key in range(1, 41)})

        run = walk(world, max_failures=limit, shards=1)

        assert run.state is RunState.PAUSED
        assert len(trace.rows) == 3
        assert "max_failures" in run.error

    def test_a_row_that_is_gone_at_its_next_try_is_skipped(self, world, things):
        things(3)
        trace.raises[2] = [Retry(delay=100)]
        run = tasks.visit.iterate(
            Thing.objects.all(), shards=1, keep=True, transactional=False
        )
        world.step()
        world.step()
        Thing.objects.filter(id=2).delete()

        world.run()

        assert counts(run) == (2, 0, 1)


class TestRowsThatKill:
    def test_a_row_that_kills_its_process_is_set_aside(self, world, things):
        things(20)
        trace.raises[7] = [Crashed() for _ in range(9)]

        run = walk(world, shards=1)

        [failure] = run.failures()
        assert (failure.key, failure.state) == ("7", FailureState.KILLED)
        assert trace.rows.count(7) == 3
        assert counts(run) == (19, 1, 0)

    def test_it_can_be_tried_again_alone_and_finalize_is_not(self, world, things):
        things(20)
        trace.raises[7] = [Crashed() for _ in range(3)]
        run = walk(world, shards=1)
        trace.calls.clear()

        assert run.retry_failures() == 1
        world.run()

        assert trace.calls == [7]
        assert counts(run) == (20, 0, 0)
        assert run.refresh().state is RunState.FINISHED

    def test_a_row_that_kills_at_its_next_tries_is_given_up(self, world, things):
        things(3)
        trace.raises[2] = [ValueError("first"), *(Crashed() for _ in range(9))]

        run = walk(world, tasks.visit.using(max_attempts=4), shards=1)

        assert trace.rows.count(2) == 4
        assert [one.state for one in run.failures()] == [FailureState.KILLED]
        assert counts(run) == (2, 1, 0)

    def test_a_killer_pauses_a_run_that_is_to_pause(self, world, things):
        things(5)
        trace.raises[2] = [Crashed() for _ in range(3)]

        run = walk(world, on_error="pause", shards=1)

        assert run.state is RunState.PAUSED
        assert "killed" in run.error
        assert [one.state for one in run.failures()] == [FailureState.STOPPED]
        run.resume()
        assert run.failures() == []
        world.run()
        assert counts(run) == (5, 0, 0)

    def test_the_store_failing_is_not_the_fault_of_a_row(self, world, things):
        from tests.iteration.world import fault_at

        things(8)
        trace.pace = 2.5
        with fault_at(world, "shard.before_checkpoint", 2, "exception"):
            run = walk(world, on_error="skip")

        assert counts(run) == (8, 0, 0)
        assert sorted(trace.rows) == list(range(1, 9))


class TestLists:
    def test_the_callback_gets_lists_of_the_size_asked_for(self, world, things):
        keys = things(25)

        run = walk(world, tasks.visit_many, batch_size=10, shards=1)

        assert trace.rows == keys
        assert counts(run) == (25, 0, 0)

    def test_of_a_list_that_raises_only_the_row_at_fault_is_tried_again(
        self, world, things
    ):
        things(20)
        trace.raises[13] = [ValueError("poison") for _ in range(3)]

        run = walk(world, tasks.visit_many, batch_size=10, shards=1)

        assert counts(run) == (20, 0, 0)
        assert set(range(1, 11)).isdisjoint(trace.rows[20:])

    def test_lists_in_a_transaction_take_effect_once(self, world, things):
        keys = things(20)
        trace.raises[13] = [ValueError("poison") for _ in range(3)]

        walk(world, tasks.visit_many, batch_size=10, atomic="page", shards=1)

        effects = Effect.objects.values_list("key", flat=True)
        assert sorted(map(int, effects)) == keys


class TestTransactions:
    @pytest.mark.parametrize("atomic", ["page", "row"])
    def test_what_a_row_wrote_before_it_raised_is_rolled_back(
        self, world, things, atomic
    ):
        keys = things(6)
        trace.raises[3] = [ValueError("no")]

        run = walk(world, atomic=atomic)

        effects = Effect.objects.values_list("key", flat=True)
        assert sorted(map(int, effects)) == keys
        assert counts(run) == (6, 0, 0)

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("atomic", ["page", "row"])
    def test_a_constraint_that_fails_at_the_commit_is_the_fault_of_its_row(
        self, world, atomic
    ):
        from django.db import connection

        if connection.vendor == "mysql":
            pytest.skip("MySQL checks constraints at once")
        authors = [Author.objects.create(name=str(n)) for n in range(3)]
        run = tasks.dangle.iterate(
            Author.objects.all(),
            args=(authors[1].pk,),
            atomic=atomic,
            on_error="skip",
            keep=True,
            transactional=False,
        )

        world.run()

        assert counts(run) == (2, 0, 1)
        assert Book.objects.count() == 2


class TestCallbacks:
    def test_an_asynchronous_callback_is_waited_for(self, world, things):
        keys = things(3)

        walk(world, tasks.visit_async)

        assert trace.rows == keys

    def test_so_is_one_that_a_decorator_hides(self, world, things):
        keys = things(3)

        walk(world, tasks.visit_hidden)

        assert trace.rows == keys

    @pytest.mark.django_db(transaction=True)
    def test_a_callback_may_defer_tasks(self, world, things):
        things(3)

        walk(world, tasks.defer_more, finalize=None)

        assert {call for call in trace.calls if isinstance(call, str)} == {
            f"deferred {n}" for n in (1, 2, 3)
        }

    @pytest.mark.django_db(transaction=True)
    def test_a_callback_may_iterate(self, world, things):
        things(2)

        walk(world, tasks.iterate_more, finalize=None)

        assert set(trace.calls) == {1, 2, "nested 1", "nested 2"}

    def test_a_row_slower_than_the_lease_is_called_once(self, world, things):
        things(4)
        trace.pace = 200.0

        run = walk(world)

        assert sorted(trace.rows) == [1, 2, 3, 4]
        assert counts(run) == (4, 0, 0)

    def test_the_callback_sees_its_run_and_its_shard(self, world, things):
        things(4)

        run = walk(world, tasks.note_context)

        assert {call[0] for call in trace.calls[:-1]} == {run.id}
        assert {call[1] for call in trace.calls[:-1]} == {0, 1}

    def test_store_has_nothing_left_unless_it_is_to_be_kept(self, world, things):
        things(4)

        run = walk(world, keep=False)

        assert store().load_run(run.id).description == b""
        assert store().load_shards(run.id) == []
        assert run.state is RunState.FINISHED

    def test_a_run_with_rows_that_failed_is_kept_until_they_are_done(
        self, world, things
    ):
        things(4)
        trace.raises[1] = [PermanentTaskFailure("no")]
        run = walk(world, keep=False)
        assert run.report().failed == 1

        run.retry_failures()
        world.run()

        assert store().load_shards(run.id) == []
        assert counts(run) == (4, 0, 0)
