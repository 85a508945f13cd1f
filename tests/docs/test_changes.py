"""The files of changes/ become items of CHANGELOG.md at the next release."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import cloudtask
from tests.docs.blocks import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KINDS = {kind["directory"] for kind in PYPROJECT["tool"]["towncrier"]["type"]}
CHANGES = [
    path
    for path in sorted((ROOT / "changes").iterdir())
    if path.name not in {"README.md", "template.md.jinja"}
]


def test_a_change_is_named_by_a_word_and_a_kind() -> None:
    name = re.compile(rf"[a-z0-9-]+\.({'|'.join(KINDS)})\.md")
    assert [path.name for path in CHANGES if not name.fullmatch(path.name)] == []


def test_the_kinds_are_those_that_readme_lists() -> None:
    text = (ROOT / "changes/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z]+)`", text)) == KINDS


def test_the_next_section_has_each_change() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version=9.9.9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## [9.9.9](") or not CHANGES
    for path in CHANGES:
        text = path.read_text(encoding="utf-8")
        assert text.endswith(".\n"), f"{path.name} is one item, and ends with a period."
        assert not text.startswith("-"), f"{path.name} needs no dash."
        # CHANGELOG.md is a page of the site, too, where relative links lead elsewhere.
        assert "](" not in text.replace("](https://", ""), path.name
        assert " ".join(text.split()) in " ".join(done.stdout.split()), path.name


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "<!-- The versions follow: make changelog -->\n" in text
    newest = re.search(r"^## \[?([\d.]+)", text, re.MULTILINE)
    assert newest
    assert newest.group(1) == cloudtask.__version__
