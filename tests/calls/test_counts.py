"""The main journeys make no more calls than were accepted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import calls

TOO_MANY = """Journeys make more calls of functions than were accepted:

{}
Look for the cause with cProfile. If the calls are worth it, accept them for these
versions of Python and Django: python -m tests.calls --write
"""


def counted() -> calls.Counts:
    """The counts in a new process, where no other test has filled a cache."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.calls"],
        cwd=calls.BASELINE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: calls.Counts = json.loads(done.stdout)
    return found


def test_no_journey_makes_a_tenth_more_calls_than_was_accepted() -> None:
    before = calls.accepted()
    if not before:
        pytest.skip(f"no counts of {calls.versions()}: python -m tests.calls --write")
    found = counted()
    assert found.keys() == before.keys()
    assert not calls.excess(found, before), TOO_MANY.format(
        "\n".join(calls.excess(found, before))
    )


def test_a_tenth_more_is_too_much_and_anything_less_is_not() -> None:
    assert calls.excess({"defer": 110}, {"defer": 100}) == []
    assert calls.excess({"defer": 111}, {"defer": 100}) == [
        "defer: 111 calls, 1.11 times the accepted 100"
    ]
