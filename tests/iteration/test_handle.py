"""The handle of a run tells what the store has."""

from __future__ import annotations

import pytest
from django.db import transaction

from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure
from cloudtask.iteration import RunState
from cloudtask.runs import FailureState
from cloudtask.stores import store
from cloudtask.testing import run_queued
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.tasks import trace


@pytest.fixture
def rows(db):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 11))
    return Thing.objects.all()


@pytest.mark.parametrize("keep", [False, True])
def test_after_the_end_it_says_what_was_done_failed_and_skipped(rows, keep):
    trace.acts[3] = lambda row: Thing.objects.filter(pk__in=[4, 5]).delete()
    run = tasks.act.iterate(rows, shards=1, atomic="row", keep=keep)
    run_queued()

    assert run.state is RunState.FINISHED
    report, progress = run.report(), run.progress()
    assert (report.done, report.failed, report.skipped) == (8, 0, 0)
    assert (progress.done, progress.total, progress.fraction) == (8, 8, 1.0)
    assert not progress.is_estimated
    assert str(progress).startswith("8 of 8 (100%), ")
    assert len(report.shards) == int(keep)
    assert run.failures() == []


def test_looking_at_it_before_changes_nothing_of_that(rows):
    run = tasks.act.iterate(rows, shards=2)
    for key in (2, 7):
        trace.acts[key] = lambda row: run.progress()
    run_queued()

    assert (run.progress().done, run.progress().total) == (10, 10)


def test_its_text_has_the_rows_that_failed_and_were_skipped(rows):
    trace.raises[2] = [PermanentTaskFailure("no")]
    failed = tasks.visit.iterate(rows, keep=True)
    run_queued(errors="collect")
    trace.raises[3] = [ValueError("no")]
    skipped = tasks.visit.iterate(rows, on_error="skip")
    run_queued()

    assert "10 of 10 (100%), 1 failed, " in str(failed.progress())
    assert "10 of 10 (100%), 1 skipped, " in str(skipped.progress())


@pytest.mark.parametrize("on_error", ["pause", "abort"])
def test_a_run_that_does_not_go_on_has_no_time_left(rows, on_error):
    trace.raises[4] = [ValueError("no")]
    run = tasks.visit.iterate(rows, on_error=on_error, shards=1)
    run_queued()

    assert run.progress().rate > 0
    assert run.progress().remaining is None
    assert "left" not in str(run.progress())


def test_a_total_that_was_not_counted_is_said_to_be_about_right(rows):
    run = tasks.visit.iterate(rows, keep=True)
    assert run.progress().is_estimated  # it is not planned yet
    assert "of about 0" in str(run.progress())
    run_queued()
    assert not run.progress().is_estimated


class TestARunThatWasRolledBack:
    @pytest.fixture
    def run(self, transactional_db):
        with transaction.atomic():
            run = tasks.visit.iterate(Thing.objects.all())
            assert run.state is RunState.WAITING
            transaction.set_rollback(True)
        return run

    def test_has_a_state_of_its_own(self, run):
        assert run.state is RunState.ROLLED_BACK
        assert run.wait().state is RunState.ROLLED_BACK
        assert run.error == ""

    @pytest.mark.parametrize("what", ["report", "progress", "failures"])
    def test_has_done_nothing_that_could_be_told(self, run, what):
        with pytest.raises(LookupError, match="rolled back"):
            getattr(run, what)()


def test_a_run_that_was_pruned_is_still_finished(rows):
    run = tasks.visit.iterate(rows)
    run_queued()
    assert run.state is RunState.FINISHED
    store().delete_run(run.id)

    assert run.state is RunState.FINISHED


def test_waiting_for_tasks_in_memory_is_refused(rows):
    run = tasks.visit.iterate(rows)

    with pytest.raises(CloudTaskError, match=r"run_queued\(\)"):
        run.wait()
    with pytest.raises(TimeoutError):
        run.wait(timeout=0)
    run_queued()
    assert run.wait().state is RunState.FINISHED


@pytest.mark.parametrize(
    ("on_error", "state"),
    [("pause", FailureState.STOPPED), ("abort", FailureState.FAILED)],
)
def test_the_row_that_stopped_the_run_is_among_the_failures(rows, on_error, state):
    trace.raises[4] = [ValueError("of this row")]
    run = tasks.visit.iterate(rows, on_error=on_error, shards=1)
    run_queued()

    (failure,) = run.failures()
    assert (failure.key, failure.state) == ("4", state)
    assert "of this row" in failure.traceback
    if on_error == "pause":
        run.resume()
        run_queued()
        assert (run.state, run.failures()) == (RunState.FINISHED, [])
        assert run.report().done == 10


@pytest.mark.parametrize("change", ["pause", "cancel"])
@pytest.mark.parametrize("task", [tasks.act, tasks.act_many])
def test_a_callback_that_stops_its_run_stops_it_before_the_next_call(
    rows, change, task
):
    run = task.iterate(
        rows, shards=1, keep=True, batch_size=1 if task is tasks.act_many else None
    )
    trace.acts[4] = lambda row: getattr(run, change)()
    run_queued()

    assert trace.rows == [1, 2, 3, 4]
    assert run.report().done == 4
