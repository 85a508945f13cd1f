"""Pyright finds the errors that mypy finds; of others it finds those that a page marks.

basedpyright is pyright with the Node that it needs, and is used by its rules.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
pytestmark = pytest.mark.xdist_group("pyright")  # it runs once for all of them
PAGES = ["declarations.py", "workflows.py"]
ALONE = "# refused by pyright alone"
MARKS = ("# type: ignore[", ALONE)
SETTINGS = {"enableTypeIgnoreComments": False, "typeCheckingMode": "standard"}

# Show 4 of chains and groups: programs that type checkers accept, and refuse.
ACCEPTED, REFUSED = "# Accepted.", "# Refused."


def marked(page: Path) -> set[int]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return {n for n, line in enumerate(lines, 1) if any(m in line for m in MARKS)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The lines with errors of pyright on each page. By its rules it would leave out
    lines that are marked for mypy."""
    folder, root = tmp_path_factory.mktemp("pages"), FOLDER.parents[1]
    settings = {**SETTINGS, "include": ["."], "extraPaths": [str(root)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    for name in PAGES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(folder)]
    command += ["--pythonpath", sys.executable]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout, run.stderr
    lines: dict[str, set[int]] = {name: set() for name in PAGES}
    for one in json.loads(run.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            name = Path(one["file"]).name
            lines[name].add(one["range"]["start"]["line"] + 1)
    return lines


@pytest.mark.parametrize("name", PAGES)
def test_pyright_finds_what_mypy_finds(found: dict[str, set[int]], name: str) -> None:
    assert found[name] == marked(FOLDER / name)


def programs(between: str, until: str | None) -> list[str]:
    text = (FOLDER / "workflows.py").read_text(encoding="utf-8")
    part = text.partition(between)[2]
    if until is not None:
        part = part.partition(until)[0]
    return re.findall(r"^(?:chain|group|assert_type|\w+\.si?)\(.*$", part, re.M)


def test_there_are_enough_programs_of_chains_and_groups() -> None:
    refused = programs(REFUSED, None)

    assert len(programs(ACCEPTED, REFUSED)) >= 20
    assert len(refused) >= 10
    assert all(any(mark in line for mark in MARKS) for line in refused)


def test_what_mypy_lets_pass_is_listed() -> None:
    """`mypy --strict` checks the page in `make check`: a line that it refuses without a
    mark fails there, and so does a mark of its own that it does not need."""
    missed = [line for line in programs(REFUSED, None) if ALONE in line]

    assert len(missed) == 5
    assert not any("type: ignore" in line for line in missed)
