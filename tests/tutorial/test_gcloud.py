"""Each `gcloud` command of the pages exists, with each of its flags.

Google's own help, which comes with the Google Cloud CLI, says so.
"""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess

import pytest

from tests.docs.blocks import ROOT, pages

pytestmark = [
    pytest.mark.tutorial,
    pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed"),
]
EVERYWHERE = {"--format", "--project", "--quiet"}  # flags of all commands


def commands(text: str) -> list[list[str]]:
    """The words after `gcloud` of each command in code of a page."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"^ *(?:\$ )?(?:export \w+=\$\()?gcloud (.+?)\)?$", text, re.M)
    return [shlex.split(line.replace(")/hello/Ada/", "")) for line in found]


FOUND = {
    " ".join(words): words
    for page in pages()
    for words in commands((ROOT / page).read_text(encoding="utf-8"))
    if "components" not in words and "auth" not in words
}


@functools.cache
def help_of(path: tuple[str, ...]) -> str:
    done = subprocess.run(
        ["gcloud", "help", *path],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout if done.returncode == 0 else ""


def longest(words: list[str]) -> tuple[str, ...]:
    """The words that name a command; what follows are its arguments."""
    path: list[str] = []
    for word in words:
        if word.startswith("-") or not help_of((*path, word)):
            break
        path.append(word)
    return tuple(path)


@pytest.mark.parametrize("words", FOUND.values(), ids=FOUND)
def test_gcloud_knows_the_command_and_its_flags(words: list[str]) -> None:
    path = longest(words)
    assert len(path) >= 2, f"gcloud has no command {words}"
    text = help_of(path)
    assert "GROUP | COMMAND" not in text, f"{path} is a group of commands"
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = set(re.findall(r"--[a-z][a-z-]+", text)) | EVERYWHERE
    known |= {
        flag.replace("--[no-]", "--") for flag in re.findall(r"--\[no-\]\S+", text)
    }
    assert flags - known == set(), path


def test_the_commands_of_the_tutorial_are_found() -> None:
    assert len(FOUND) > 30
