"""Names that rest or travel stay as they are, wherever their code lies."""

from __future__ import annotations

import difflib
import subprocess
import sys

from tests import golden

CHANGED = """Names that rest in stores or travel in tasks have changed:

{}
If that is what you want, write the list anew: python -m tests.golden --write
"""


def collected() -> str:
    """The names as a new process of the application has them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden"],
        cwd=golden.FILE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_that_rest_or_travel_are_those_of_the_golden_list() -> None:
    listed, now = golden.FILE.read_text(encoding="utf-8"), collected()
    changes = difflib.unified_diff(
        listed.splitlines(), now.splitlines(), "names.txt", "the code", lineterm="", n=1
    )
    assert listed == now, CHANGED.format("\n".join(changes))
