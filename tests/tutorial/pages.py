"""The steps of a tutorial page: files to write, commands to type, output to expect.

A `python` block is a file, and its first line a comment with the path; ", at the end"
adds to the file. A `console` block has commands after "$ ", each with the output that
follows. A `text` block is shown by the server in the first terminal, in any order.
"...", as in doctest, is any text. "Ctrl-C" in the text stops the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

STEP = re.compile(r"^( *)```(python|console|text)\n(.*?)^ *```$|Ctrl-C", re.M | re.S)
FILE = re.compile(r"# (\S+?)(, at the end)?$")


@dataclass(frozen=True)
class File:
    path: str
    text: str
    is_added: bool


@dataclass(frozen=True)
class Command:
    line: str
    output: str


@dataclass(frozen=True)
class Shown:
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Interrupt:
    pass


Step = File | Command | Shown | Interrupt


def steps(page: str) -> Iterator[Step]:
    """The steps of a page, in their order."""
    for match in STEP.finditer(page):
        kind, text = match.group(2), dedent(match.group(3) or "")
        if kind is None:
            yield Interrupt()
        elif kind == "python":
            yield _file(text)
        elif kind == "text":
            yield Shown(tuple(text.splitlines()))
        else:
            yield from _commands(text)


def _file(text: str) -> File:
    first, _, rest = text.partition("\n")
    match = FILE.fullmatch(first)
    assert match, f"The first line must name the file: {first!r}"
    return File(match.group(1), rest, bool(match.group(2)))


def _commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line, output)


def pattern(expected: str) -> re.Pattern[str]:
    """The pattern of an output: "..." is any text, and ports of the emulator vary."""
    text = re.escape(expected.strip()).replace(re.escape("..."), ".*")
    return re.compile(text.replace("8123", r"\d+").replace("8124", r"\d+"), re.S)
