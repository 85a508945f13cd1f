"""`manage.py test`: nothing of ours is configured, and pytest is not there."""

from __future__ import annotations

import pytest

from tests.testing.runs import RunOfTests, run_django_tests

pytestmark = pytest.mark.xdist_group("run of Django's runner")  # for all of them


@pytest.fixture(scope="module")
def outcome() -> RunOfTests:
    return run_django_tests("--pattern=cases.py", "tests.testing.sample")


def test_all_run_and_those_that_should_fail(outcome):
    assert outcome.failures == [
        "test_3_a_failing_task_fails_the_test",
        "test_a_failure_tells_the_seed",
        "test_a_forgotten_run",
        "test_left",
    ]
    assert outcome.passed == 10


def test_a_failing_task_shows_its_own_traceback(outcome):
    assert "ValueError: on purpose" in outcome.text
    assert "tests/testapp/tasks.py" in outcome.text


def test_a_strict_test_case_names_what_is_left(outcome):
    assert "tests.testapp.tasks.note('left behind')" in outcome.text


def test_a_failure_tells_the_faults_and_the_seed(outcome):
    assert "Faults(duplicate=True, seed=42)" in outcome.text


def test_a_failure_tells_of_a_call_that_has_not_run(outcome):
    assert (
        "1 call is queued and has not run: tests.testapp.tasks.note. Call "
        "cloudtask.testing.run_queued() to run it."
    ) in outcome.text


def test_in_parallel_each_process_has_its_queue():
    outcome = run_django_tests(
        "--parallel=2", "--pattern=cases.py", "-k=clean_queue", "tests.testing.sample"
    )
    assert (outcome.passed, outcome.failures) == (4, [])
