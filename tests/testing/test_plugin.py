"""The pytest plugin, in runs of its own."""

from __future__ import annotations

import pytest

from tests.testing.runs import RunOfTests, run_pytest

PLAIN = """
def test_one_leaves_a_task(): note.defer(1)

def test_two_starts_with_an_empty_queue(): assert queued() == []

def test_fixtures(cloudtask_queue, run_queued):
    note.defer(1)
    assert len(cloudtask_queue) == 1
    assert cloudtask_queue[0].args == (1,)
    cloudtask_queue.clear()
    assert len(run_queued()) == 0

def test_that_fails_after_faults():
    calls.clear()
    note.defer(1)
    run_queued(faults=Faults(duplicate=True, seed=42))
    assert len(calls) == 1
"""

STRICT = """
def test_left(): note.defer("left")

def test_ran():
    note.defer(1)
    run_queued()

def test_failed_once():
    fail.defer()
    with pytest.raises(ValueError): run_queued()

@pytest.mark.django_db
def test_left_uncommitted(): note.defer("uncommitted")

class Left(TestCase):
    def test_left_by_a_test_case(self): note.defer("of a test case")

    def test_ran_by_a_test_case(self):
        note.defer(1)
        run_queued()
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> RunOfTests:
    return run_pytest(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.mark.xdist_group("plain run of pytest")
def test_without_strict_nothing_is_minded(plain):
    assert (plain.passed, plain.failures) == (3, ["test_that_fails_after_faults"])


@pytest.mark.xdist_group("plain run of pytest")
def test_a_failure_shows_faults_and_seed(plain):
    assert "cloudtask faults" in plain.text
    assert "Faults(duplicate=True, seed=42)" in plain.text
    assert "duplicate of tests.testapp.tasks.note" in plain.text


@pytest.mark.exhaustive(sample=2)  # the option alone; the setting in the long run
@pytest.mark.parametrize("how", ["--cloudtask-strict", "-ocloudtask_strict=true"])
def test_strict_fails_tests_that_leave_tasks(tmp_path, how):
    outcome = run_pytest(tmp_path, STRICT, how)
    assert outcome.failures == [
        "test_left",
        "test_left_by_a_test_case",
        "test_left_uncommitted",
    ]
    assert outcome.passed == 3
    for left in ("left", "uncommitted", "of a test case"):
        assert f"tests.testapp.tasks.note('{left}')" in outcome.text


def test_xdist(tmp_path):
    outcome = run_pytest(
        tmp_path,
        """
        @pytest.mark.parametrize("number", range(20))
        def test_it(number, db):
            assert queued() == []
            note.defer(number)
            assert len(run_queued()) == 1
        """,
        "-n2",
    )
    assert outcome.passed == 20


def test_a_project_without_django_is_left_alone(tmp_path):
    outcome = run_pytest(
        tmp_path, "def test_it(): pass", "--cloudtask-strict", django=False
    )
    assert outcome.passed == 1
