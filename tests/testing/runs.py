"""Test runs inside of tests, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = """
import pytest
from django.test import TestCase
from cloudtask.testing import *
from tests.testapp.tasks import calls, fail, note
"""


@dataclass(frozen=True)
class RunOfTests:
    """How a run ended: its output, the number that passed, the names that failed."""

    text: str
    passed: int
    failures: list[str]


def _run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "COV", "DJANGO", "CLOUDTASK"))
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_pytest(
    folder: Path, tests: str, *options: str, django: bool = True
) -> RunOfTests:
    """Run a module of `tests` with pytest, on SQLite in memory."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    imports = IMPORTS if django else ""
    (folder / "test_it.py").write_text(imports + textwrap.dedent(tests))
    results = folder / "results.xml"
    command = ["-m", "pytest", str(folder), "-c", str(folder / "pytest.ini")]
    settings = ["--ds=tests.settings"] if django else ["-pno:django"]
    done = _run([*command, *settings, f"--junit-xml={results}", *options])
    assert results.exists(), done.stdout + done.stderr
    cases = list(ElementTree.parse(results).iter("testcase"))
    failures = sorted(
        str(case.get("name"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )
    return RunOfTests(done.stdout, len(cases) - len(failures), failures)


def run_django_tests(*options: str) -> RunOfTests:
    """Run `manage.py test` with these options, on SQLite in memory."""
    done = _run(
        ["-W", "error", "-m", "django", "test", "-v", "2", *options],
        DJANGO_SETTINGS_MODULE="tests.settings",
    )
    text = done.stdout + done.stderr
    failures = re.findall(r"^(?:FAIL|ERROR): (\w+) ", text, re.MULTILINE)
    ran = re.search(r"^Ran (\d+) tests", text, re.MULTILINE)
    assert ran, text
    return RunOfTests(text, int(ran[1]) - len(failures), sorted(failures))
