"""The manual runs under both runners; this is the one that pytest is not."""

from __future__ import annotations

from tests.testing.runs import run_django_tests


def test_the_manual_runs_under_djangos_own_runner():
    outcome = run_django_tests("tests.manual")
    assert outcome.failures == []
    assert outcome.passed > 15
