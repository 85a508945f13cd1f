"""The pytest plugin, in runs of its own."""

from __future__ import annotations

import re
from pathlib import Path

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

FORGOTTEN = """
def test_forgotten():
    note.defer(1)
    assert calls == ["ran"]

def test_forgotten_often(db):
    note.defer(1)
    note.defer(2)
    fail.using(transactional=False).defer()
    pytest.fail("without a reason")

def test_refused_by_us():
    note.defer(1)
    assert_enqueued(fail)

def test_failed_in_the_run():
    note.defer(1)
    fail.using(countdown=-1).defer()
    run_queued()

def test_failed_after_the_run():
    note.defer(1)
    run_queued()
    assert calls == ["ran"]

def test_passes(): note.defer(1)

class Forgotten(TestCase):
    def test_forgotten_by_a_test_case(self):
        note.defer(1)
        self.assertTrue(False)

class Mixed(CloudTaskTestMixin, TestCase):
    def test_forgotten_with_the_mixin(self):
        note.defer(1)
        self.assertTrue(False)
"""

QUEUED = "1 call is queued and has not run: tests.testapp.tasks.note. "
CALL = "Call cloudtask.testing.run_queued() to run"

SHOWN = """
from tests.testapp.tasks import add_author
def test_enqueued():
    assert_enqueued(note)

def test_not_enqueued():
    note.defer(1)
    assert_not_enqueued(note)

def test_block():
    with enqueues(note):
        pass

def test_block_of_nothing():
    with enqueues_nothing():
        note.defer(1)

def test_argument():
    assert_enqueued(fail, unknown=1)

def test_idempotent(db):
    assert_idempotent(add_author, "Ada")

class Mixed(CloudTaskTestMixin, TestCase):
    def test_method(self):
        self.assert_enqueued(note)

def test_run():
    fail.defer()
    run_queued()
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


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory) -> RunOfTests:
    return run_pytest(tmp_path_factory.mktemp("forgotten"), FORGOTTEN)


def told(run: RunOfTests, name: str) -> list[str]:
    """The lines about calls that have not run, in the report of one failure."""
    report = re.split(rf"^_+ (?:\w+\.)?{name} _+$", run.text, flags=re.MULTILINE)[1]
    report = re.split(r"^(?:_+ [\w.]+ _+|=+ .* =+)$", report, flags=re.MULTILINE)[0]
    return [line for line in report.splitlines() if "not run" in line]


@pytest.mark.xdist_group("forgetful run of pytest")
@pytest.mark.parametrize("name", ["test_forgotten", "test_forgotten_by_a_test_case"])
def test_a_failure_tells_of_a_call_that_has_not_run(forgotten, name):
    assert told(forgotten, name) == [f"{QUEUED}{CALL} it."]


@pytest.mark.xdist_group("forgetful run of pytest")
def test_a_failure_counts_calls_that_have_not_run(forgotten):
    assert told(forgotten, "test_forgotten_often") == [
        "3 calls are queued and have not run: tests.testapp.tasks.fail, "
        f"tests.testapp.tasks.note (2 times). {CALL} them."
    ]


@pytest.mark.xdist_group("forgetful run of pytest")
def test_the_mixin_tells_it_as_a_note_and_once(forgotten):
    lines = told(forgotten, "test_forgotten_with_the_mixin")
    assert lines == [f"E       {QUEUED}{CALL} it."]


@pytest.mark.xdist_group("forgetful run of pytest")
@pytest.mark.parametrize(
    "name",
    ["test_refused_by_us", "test_failed_in_the_run", "test_failed_after_the_run"],
)
def test_other_failures_do_not_tell_of_calls(forgotten, name):
    assert told(forgotten, name) == []


def test_failures_end_at_the_line_of_the_test(tmp_path):
    run = run_pytest(tmp_path, SHOWN)
    ends = re.findall(r"^(\S+):\d+: \w+$", run.text, re.MULTILINE)
    assert len(run.failures) == 8
    assert {Path(end).name for end in ends[:-1]} == {"test_it.py"}
    assert ends[-1] == "tests/testapp/tasks.py"
    assert "cloudtask/testruns/" not in run.text
