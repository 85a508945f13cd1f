"""The pages of the dashboard, which `benchmarks.pages` measures in its own project."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Effort
from benchmarks.pages import MOST_MS, MOST_QUERIES
from benchmarks.processes import ROOT
from benchmarks.results import COUNT, TIME, Figure, Outcome, Verdict

ABOUT = (
    "The best of several visits with PostgreSQL. A column has so many failed tasks,"
    " runs with so many shards, and messages in the outbox. Each page may take"
    f" {MOST_QUERIES} queries about our tables, for any number of rows."
)


def outcome(effort: Effort) -> Outcome:
    found = Outcome(
        name="dashboard",
        title="Pages of the dashboard",
        baseline="overview",
        about=ABOUT,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.json"
        command = [sys.executable, "-m", "benchmarks.pages", f"--json={path}"]
        command += ["--quick"] if effort.quick else []
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if not path.exists():
            lines = (ended.stderr or ended.stdout).strip().splitlines()
            found.missing = {"all pages": lines[-1] if lines else "it ended"}
            return found
        told = json.loads(path.read_text())
    found.figures = [
        Figure(case=page, measure=scale, unit="ms", samples=[figures[number][1]])
        for number, scale in enumerate(told["scales"])
        for page, figures in told["pages"].items()
    ]
    every = [figure for figures in told["pages"].values() for figure in figures]
    uneven = [
        page
        for page, figures in told["pages"].items()
        if len({queries for queries, _ in figures}) > 1
    ]
    found.verdicts = [
        Verdict(
            what="queries of a page",
            figure=max(queries for queries, _ in every),
            limit=MOST_QUERIES,
            unit="",
            reason=COUNT,
        ),
        Verdict(
            what="pages whose queries grow with the rows",
            figure=len(uneven),
            limit=0,
            unit="",
            reason=COUNT,
        ),
        Verdict(
            what="the slowest page",
            figure=max(milliseconds for _, milliseconds in every),
            limit=MOST_MS,
            unit=" ms",
            reason=TIME,
        ),
    ]
    return found
