"""Iterations in a run: their steps are calls like others, and their report is kept."""

from __future__ import annotations

import traceback
from collections import Counter

import pytest
from django.db import IntegrityError
from django.test import TestCase, override_settings

from cloudtask import Retry, task
from cloudtask.deferred import defer_iteration_with_finalize
from cloudtask.failpoints import Crashed
from cloudtask.testing import Faults, crash_at, eager, queued, run_queued
from cloudtask.testruns.djangae import (
    TaskFailedBehaviour,
    TaskFailedError,
    TestCaseMixin,
)
from tests.testapp.models import Author
from tests.testapp.tasks import calls, visit, visited


@pytest.fixture
def authors(db):
    return Author.objects.bulk_create(Author(name=str(n)) for n in range(20))


def visits():
    return sorted(pk for pk, *_ in calls if pk != "finalize")


def test_the_report_tells_of_an_iteration(authors):
    visit.iterate(Author.objects.all(), finalize=visited, shards=4)
    report = run_queued()
    (one,) = report.iterations
    assert (one.task, one.state) == (visit.path, "finished")
    assert (one.report.done, one.report.failed, len(one.report.shards)) == (20, 0, 4)
    assert one.deliveries >= 6
    assert f"iteration: of {visit.path}: 20 done" in repr(report)
    assert visits() == sorted(author.pk for author in authors)


def test_without_iterations_there_are_none():
    visit.using(transactional=False)
    assert run_queued().iterations == []


@pytest.mark.parametrize("via", ["direct", "http"])
def test_over_both_ways(authors, via):
    visit.iterate(Author.objects.all(), shards=2)
    assert run_queued(via=via).iterations[0].report.done == 20


@pytest.mark.parametrize("seed", range(4))
def test_faults_lose_no_row(authors, seed):
    visit.iterate(Author.objects.all(), finalize=visited, shards=3)
    faults = Faults(
        duplicate=0.4, concurrent=0.4, reorder=0.4, lose_ack=0.4, crash=0.3, seed=seed
    )
    run_queued(faults=faults)
    assert set(visits()) == {author.pk for author in authors}
    assert [call[0] for call in calls].count("finalize") >= 1


def test_a_crash_loses_no_row(authors):
    visit.iterate(Author.objects.all(), finalize=visited, shards=3)
    run_queued(faults=crash_at("execute.after_call", times=2))
    assert set(visits()) == {author.pk for author in authors}


class Rotten(Exception):
    pass


tried: list[int] = []


@task(max_attempts=2)
def spoil(author):
    tried.append(author.pk)
    raise Rotten(f"row {author.pk}")


@task
def break_the_transaction(author):
    Author.objects.create(pk=author.pk, name="twice")


@task(max_attempts=3)
def ask_for_more(author):
    tried.append(author.pk)
    if tried.count(author.pk) < 2:
        raise Retry(delay=60)


@task(max_attempts=3)
def stumble(author):
    tried.append(author.pk)
    if tried.count(author.pk) < 2:
        raise Rotten("once")


@task(max_attempts=1)
def mend(author):
    tried.append(author.pk)
    if len(tried) <= 20:
        raise Rotten("all of them")


@task(max_attempts=3)
def kill(author):
    raise Crashed


@task(max_attempts=3)
def meet_an_outage(author):
    visit.defer(author)


@pytest.fixture(autouse=True)
def nothing_tried():
    tried.clear()


@pytest.mark.parametrize("options", [{}, {"shards": 4}, {"atomic": "page"}])
@pytest.mark.parametrize("via", ["direct", "http"])
def test_what_a_row_raises_comes_out(authors, via, options):
    spoil.iterate(Author.objects.all(), **options)
    with pytest.raises(Rotten, match=f"row {authors[0].pk}$") as caught:
        run_queued(via=via)
    assert caught.traceback[-1].name == "spoil"
    # How often depends on the sizes of pages, and so on the speed of the machine.
    assert max(Counter(tried).values()) <= 3


def test_a_broken_transaction_does_not_hide_what_the_row_raised(authors):
    break_the_transaction.iterate(Author.objects.all())
    with pytest.raises(IntegrityError):
        run_queued()


def test_the_next_run_goes_on_with_the_rows(authors):
    spoil.iterate(Author.objects.all())
    with pytest.raises(Rotten):
        run_queued()
    (one,) = run_queued(errors="collect").iterations
    assert (one.state, one.report.failed) == ("finished", 20)


@pytest.mark.parametrize(
    ("on_error", "state"),
    [("skip", "finished"), ("pause", "paused"), ("abort", "aborted")],
)
def test_rows_that_the_caller_has_a_policy_for_do_not_come_out(
    authors, on_error, state
):
    spoil.iterate(Author.objects.all(), on_error=on_error)
    assert run_queued().iterations[0].state == state


def test_a_row_that_asks_for_a_retry_has_not_failed(authors):
    ask_for_more.iterate(Author.objects.all())
    assert run_queued().iterations[0].report.done == 20


@pytest.mark.parametrize("errors", ["retry", "collect"])
def test_other_runs_count_the_rows_that_were_given_up(authors, errors):
    spoil.iterate(Author.objects.all())
    report = run_queued(errors=errors)
    assert report.iterations[0].report.failed == 20
    assert "20 failed" in repr(report)
    assert len(tried) == 40


@pytest.mark.parametrize("via", ["direct", "http"])
@pytest.mark.parametrize("errors", ["retry", "collect"])
def test_the_report_lists_the_rows_that_were_given_up(authors, errors, via):
    run = spoil.iterate(Author.objects.all(), shards=3)
    report = run_queued(errors=errors, via=via)
    rows = report.failed
    assert {one.row for one in rows} == {str(author.pk) for author in authors}
    assert {(one.task, one.id, one.attempt) for one in rows} == {
        (spoil.path, run.id, 2)
    }
    assert [str(one.error) for one in rows] == [f"row {one.row}" for one in rows]
    assert {traceback.extract_tb(one.error.__traceback__)[-1].name for one in rows} == {
        "spoil"
    }
    assert (report.rows, len(report.iterations[0].failures)) == (rows, 20)
    assert f"failed: {rows[0]}" in repr(report)
    assert f"({run.id}) row {rows[0].row} attempt 2 exhausted: Rotten" in str(rows[0])
    assert report.calls[spoil] == 0


def test_a_row_that_passes_in_the_end_has_not_failed(authors):
    stumble.iterate(Author.objects.all())
    assert run_queued(errors="collect").failed == []
    assert len(tried) == 40


def test_a_row_that_is_opened_again_and_passes_has_not_failed(authors):
    run = mend.iterate(Author.objects.all(), keep=True)
    failed = run_queued(errors="collect").failed
    assert [type(one.error) for one in failed] == [Rotten] * 20
    assert run.retry_failures() == 20
    assert run_queued(errors="collect").failed == []


def test_a_failed_row_that_killed_its_process_has_its_text(authors):
    kill.iterate(Author.objects.filter(pk=authors[0].pk))
    (row,) = run_queued(errors="retry").failed
    assert (row.row, "was killed" in str(row.error)) == (str(authors[0].pk), True)


def test_rows_that_are_skipped_are_told_by_the_iteration(authors):
    spoil.iterate(Author.objects.all(), on_error="skip")
    report = run_queued()
    (one,) = report.iterations
    assert (report.failed, one.report.skipped, len(one.failures)) == ([], 20, 20)
    assert "Rotten" in one.failures[0].traceback


@pytest.mark.parametrize("on_error", ["pause", "abort"])
def test_why_an_iteration_was_stopped_is_told(authors, on_error):
    spoil.iterate(Author.objects.all(), on_error=on_error)
    report = run_queued()
    assert report.iterations[0].error == (
        f"Row {authors[0].pk} raised Rotten: row {authors[0].pk}"
    )
    assert report.iterations[0].error in repr(report)


# At once


@pytest.mark.parametrize("transactional", [None, False])
def test_eager_runs_all_of_an_iteration(authors, transactional):
    with eager():
        visit.iterate(
            Author.objects.all(),
            finalize=visited,
            shards=4,
            transactional=transactional,
        )
    assert visits() == sorted(author.pk for author in authors)
    assert [call[0] for call in calls].count("finalize") == 1
    assert queued() == []


@pytest.mark.parametrize("options", [{}, {"shards": 4}, {"transactional": False}])
def test_what_a_row_raises_comes_out_of_an_eager_iterate(authors, options):
    with eager(), pytest.raises(Rotten, match=f"row {authors[0].pk}$") as caught:
        spoil.iterate(Author.objects.all(), **options)
    assert caught.traceback[-1].name == "spoil"
    assert queued() == []


def test_eager_runs_what_a_handle_enqueues(authors):
    run = visit.iterate(Author.objects.all(), finalize=visited)
    run.pause()
    run_queued()
    with eager():
        run.resume()
    assert visits() == sorted(author.pk for author in authors)
    assert (run.state, queued()) == ("finished", [])


def test_eager_opens_failed_rows_again(authors):
    run = mend.iterate(Author.objects.all(), keep=True)
    run_queued(errors="collect")
    with eager():
        assert run.retry_failures() == 20
    assert (run.progress().failed, queued()) == (0, [])


def test_what_a_row_raises_comes_out_of_an_eager_resume(authors):
    run = spoil.iterate(Author.objects.all())
    run.pause()
    run_queued()
    with eager(), pytest.raises(Rotten):
        run.resume()


def test_eager_leaves_rows_alone_that_the_caller_has_a_policy_for(authors):
    with eager():
        run = spoil.iterate(Author.objects.all(), on_error="skip")
        tried.clear()
        ask_for_more.iterate(Author.objects.all())
    assert (run.progress().skipped, len(tried)) == (20, 40)


def test_eager_leaves_the_steps_of_other_iterations_queued(authors):
    visit.iterate(Author.objects.all(), shards=2)
    run_queued(recursive=False)
    with eager():
        ask_for_more.iterate(Author.objects.all())
    assert (len(queued()), calls) == (2, [])


def test_rows_that_meet_a_fault_do_not_come_out(authors):
    meet_an_outage.iterate(Author.objects.all())
    report = run_queued(faults=Faults(enqueue_errors=0.3, seed=1))
    assert report.struck
    assert report.iterations[0].report.done == 20


def test_rows_that_raise_come_out_of_a_run_with_faults(authors):
    spoil.iterate(Author.objects.all())
    with pytest.raises(Rotten) as caught:
        run_queued(faults=Faults(duplicate=0.5, seed=1))
    assert "Faults(duplicate=0.5, seed=1)" in caught.value.__notes__[0]


# djangae's functions take plain ones, of installed apps or of listed modules.
trusting = override_settings(CLOUDTASK={"TRUSTED_MODULES": [__name__]})


@trusting
def test_rows_through_the_functions_of_djangae(authors):
    defer_iteration_with_finalize(Author.objects.all(), spoil_plainly, finish_plainly)
    with pytest.raises(Rotten):
        run_queued()


def spoil_plainly(author):
    raise Rotten("row")


def finish_plainly():
    pass


@trusting
class TestDjangae(TestCaseMixin, TestCase):
    def test_a_row_that_raises(self):
        Author.objects.create(name="Ada")
        defer_iteration_with_finalize(
            Author.objects.all(), spoil_plainly, finish_plainly
        )
        with pytest.raises(TaskFailedError) as caught:
            self.process_task_queues()
        assert isinstance(caught.value.original_exception, Rotten)

    def test_a_row_that_was_given_up_is_not_tried_again(self):
        Author.objects.create(name="Ada")
        spoil.iterate(Author.objects.all(), finalize=visited)
        self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RETRY_TASK)
        assert calls[-1][0] == "finalize"
