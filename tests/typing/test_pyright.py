"""Pyright finds the errors that mypy finds, and no others, where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).with_name("declarations.py")
SETTINGS = {"enableTypeIgnoreComments": False, "typeCheckingMode": "standard"}


def marked() -> set[int]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {n for n, line in enumerate(lines, 1) if "# type: ignore[" in line}


def found(folder: Path) -> set[int]:
    """The lines with errors of pyright, which itself would leave marked ones out."""
    settings = {**SETTINGS, "include": ["."], "extraPaths": [str(PAGE.parents[2])]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    (folder / PAGE.name).write_text(PAGE.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder)]
    command += ["--pythonpath", sys.executable]
    report = json.loads(subprocess.run(command, capture_output=True).stdout)
    errors = [e for e in report["generalDiagnostics"] if e["severity"] == "error"]
    return {error["range"]["start"]["line"] + 1 for error in errors}


def test_pyright_finds_what_mypy_finds(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    assert found(tmp_path) == marked()
