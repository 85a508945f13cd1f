from cloudtask.testing import run_queued, queued, assert_enqueued, eager
from tests.testapp import tasks
from tests.testapp.models import Author
import pytest

@pytest.fixture(autouse=True)
def clean(): tasks.calls.clear()

def test_a():
    tasks.note.defer(1, b=(2,))
    assert_enqueued(tasks.note, 1)
    run_queued()
    assert tasks.calls == [((1,), {"b": (2,)})]

def test_db(db):
    r = tasks.add_author.defer("x")
    assert len(queued()) == 1
    run_queued()
    assert Author.objects.count() == 1

def test_err():
    tasks.fail.defer()
    with pytest.raises(ValueError): run_queued()

def test_many():
    tasks.again.defer(2)
    rep = run_queued()
    assert len(rep) == 3
    with eager():
        tasks.anote.defer(3)
    assert tasks.calls[-1] == ("async", 3)
