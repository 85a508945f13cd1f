"""Counts the calls of functions that the main journeys make, and compares them.

A count is the same on every machine, however busy, where a time is not. The counts
that were accepted lie in baseline.json, by the versions of Python and Django. A test
fails if a journey makes a tenth more. `python -m tests.calls --write` accepts the
counts of its Python and Django.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import django

BASELINE = Path(__file__).with_name("baseline.json")
MOST = 1.1  # of the accepted number
Counts = dict[str, int]


def versions() -> str:
    """The key of the baseline for this process."""
    python = "{}.{}".format(*sys.version_info)
    return f"Python {python}, Django {'.'.join(map(str, django.VERSION[:2]))}"


def accepted() -> Counts:
    """The counts that were accepted for these versions; empty without any."""
    found: dict[str, Counts] = json.loads(BASELINE.read_text())
    return found.get(versions(), {})


def accept(counts: Counts) -> None:
    """Write `counts` to the baseline of these versions."""
    found = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    found[versions()] = counts
    BASELINE.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def excess(counts: Counts, before: Counts) -> list[str]:
    """A line for each journey that makes too many calls."""
    return [
        f"{journey}: {counts[journey]:,} calls, {counts[journey] / number:.2f} times "
        f"the accepted {number:,}"
        for journey, number in before.items()
        if counts[journey] > number * MOST
    ]
