"""Iterations in a run: their steps are calls like others, and their report is kept."""

from __future__ import annotations

import pytest

from cloudtask.testing import Faults, crash_at, run_queued
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
