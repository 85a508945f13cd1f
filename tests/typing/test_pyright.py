"""Pyright finds the errors that mypy finds, where it is installed.

Of others it finds those that a page marks as such.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGES = ["declarations.py", "workflows.py"]
MARKS = ("# type: ignore[", "# refused by pyright alone")
SETTINGS = {"enableTypeIgnoreComments": False, "typeCheckingMode": "standard"}


def marked(page: Path) -> set[int]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return {n for n, line in enumerate(lines, 1) if any(m in line for m in MARKS)}


def found(page: Path, folder: Path) -> set[int]:
    """The lines with errors of pyright, which itself would leave marked ones out."""
    settings = {**SETTINGS, "include": ["."], "extraPaths": [str(page.parents[2])]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    (folder / page.name).write_text(page.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder)]
    command += ["--pythonpath", sys.executable]
    report = json.loads(subprocess.run(command, capture_output=True).stdout)
    errors = [e for e in report["generalDiagnostics"] if e["severity"] == "error"]
    return {error["range"]["start"]["line"] + 1 for error in errors}


@pytest.mark.parametrize("name", PAGES)
def test_pyright_finds_what_mypy_finds(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyright")
    page = FOLDER / name
    assert found(page, tmp_path) == marked(page)
