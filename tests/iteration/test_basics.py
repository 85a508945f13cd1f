import pytest

from cloudtask.iteration import RunState
from cloudtask.testing import run_queued
from tests.testapp import tasks
from tests.testapp.models import Author


@pytest.fixture(autouse=True)
def _no_calls():
    tasks.calls.clear()


def make_authors(count):
    return Author.objects.bulk_create([Author(name=f"a{n}") for n in range(count)])


def rows_called():
    return sorted(call[0] for call in tasks.calls if call[0] != "finalize")


@pytest.mark.django_db
@pytest.mark.parametrize("count", [0, 1, 7, 600, 2500])
def test_every_row_is_called_once_and_finalize_once(count):
    authors = make_authors(count)
    run = tasks.visit.iterate(
        Author.objects.all(), finalize=tasks.visited, args=(1,), shards=4, keep=True
    )
    run_queued()
    assert rows_called() == sorted(a.pk for a in authors)
    assert [c[0] for c in tasks.calls].count("finalize") == 1
    assert tasks.calls[-1][1] == (1,)
    assert run.refresh().state is RunState.FINISHED
    assert run.progress().done == count
