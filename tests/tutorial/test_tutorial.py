"""Pages 1 to 4 of the tutorial, typed into an empty folder.

The environment is empty as well: what pip installs is the wheel, as a user gets it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.tutorial.pages import Command, File, Interrupt, Shown, pattern, steps
from tests.tutorial.terminals import opened

PAGES = ("first-task", "tests", "failures", "table")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheel of this code."""
    folder = tmp_path / "dist"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, f"--wheel-dir={folder}", ROOT], check=True)
    return folder


@pytest.mark.tutorial
@pytest.mark.xdist_group("default port")  # of the emulator
def test_the_pages_can_be_typed_into_an_empty_folder(
    tmp_path: Path, wheels: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    with opened(tmp_path / "empty", wheels, free_port) as terminals:
        for page in PAGES:
            text = (ROOT / f"docs/tutorial/{page}.md").read_text(encoding="utf-8")
            started, before = time.monotonic(), terminals.lines
            for step in steps(text):
                terminals.do(step)
            minutes = (time.monotonic() - started) / 60
            lines = terminals.lines - before
            told.append(f"{page}: {lines} lines typed, {minutes:.1f} minutes")
        terminals.interrupt()
    with capsys.disabled():
        print("", *told, sep="\n")


PAGE = """
1. Write:

   ```python
   # a.py, at the end
   x = 1
   ```

2. Stop with Ctrl-C, and type:

   ```console
   $ one
   $ two
   found ...
   ```

   ```text
   shown
   ```
"""


def test_the_steps_of_a_page_are_files_commands_interrupts_and_what_is_shown() -> None:
    assert list(steps(PAGE)) == [
        File("a.py", "x = 1\n", is_added=True),
        Interrupt(),
        Command("one", ""),
        Command("two", "found ...\n"),
        Shown(("shown",)),
    ]


@pytest.mark.parametrize(
    ("output", "is_right"), [("a\nb\nc", True), ("a\nc", False), ("a\nb\nd", False)]
)
def test_dots_are_any_text_and_all_else_is_compared(
    output: str, is_right: bool
) -> None:
    assert bool(pattern("a\n...b\n...c").fullmatch(output)) is is_right
