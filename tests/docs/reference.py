"""The tables of the reference that follow from the code.

`python -m tests.docs.reference` writes them into docs/reference/; a test compares.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import django
from django.core.management.base import DjangoHelpFormatter

from cloudtask.management import commands
from cloudtask.options import OPTIONS, Option
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/reference/options.md"
COMMANDS = ROOT / "docs/reference/commands.md"
TABLE = re.compile(r"^\| option \| meaning \| default \|\n(?:\|.*\n)+", re.MULTILINE)

# Options of every command of Django.
OF_DJANGO = DjangoHelpFormatter.show_last | {"help", "--skip-checks", "--no-color"}


def options_table() -> str:
    """The table of all options."""
    rows = ["| option | meaning | default |", "|---|---|---|", *_rows()]
    return "".join(f"{row}\n" for row in rows)


def _rows() -> Iterator[str]:
    for option in OPTIONS.values():
        meaning = option.meaning
        if option.only_in_using:
            meaning += "; only in `.using`"
        yield f"| `{option.name}` | {meaning} | {_default(option)} |"


def _default(option: Option) -> str:
    if option.shown is not None:
        return option.shown
    return (
        f'`"{option.default}"`'
        if option.default == str(option.default)
        else (f"`{option.default}`")
    )


def with_table(page: Path = PAGE) -> str:
    """The text of the page with the table as it should be."""
    text, found = TABLE.subn(lambda _: options_table(), page.read_text("utf-8"))
    assert found == 1, f"{page} has {found} tables of options."
    return text


def with_commands(page: Path = COMMANDS) -> str:
    """The text of the page of commands, with what their parsers say."""
    head = page.read_text("utf-8").partition("\n## ")[0].rstrip()
    folder = Path(commands.__file__).parent
    names = sorted(path.stem for path in folder.glob("cloudtask_*.py"))
    return "\n\n".join([head, *(_command(name) for name in names)]) + "\n"


def _command(name: str) -> str:
    module = import_module(f"{commands.__name__}.{name}")
    parser = module.Command().create_parser("manage.py", name)
    return "\n\n".join([f"## `{name}`", parser.description or "", *_parts(parser)])


def _parts(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    """The options of a parser as a table, then those of its subcommands."""
    rows, below = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = list(action.choices.items())
        elif action.help == argparse.SUPPRESS:
            continue
        elif not OF_DJANGO.intersection([*action.option_strings, action.dest]):
            rows.append(
                f"| {_words(action)} | {(action.help or '') % vars_of(action)} |"
            )
    if name:
        yield f"### `{name}`"
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
    for word, other in below:
        yield from _parts(other, f"{name} {word}".strip())


def vars_of(action: argparse.Action) -> dict[str, object]:
    return {"default": action.default, "prog": "manage.py"}


def _words(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    words = action.option_strings or [str(value)]
    if action.option_strings and action.nargs != 0:
        words = [*words[:-1], f"{words[-1]} {_choices(action) or value}"]
    return ", ".join(f"`{word}`" for word in words)


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""


if __name__ == "__main__":
    django.setup()
    PAGE.write_text(with_table(), encoding="utf-8")
    COMMANDS.write_text(with_commands(), encoding="utf-8")
