"""Prints what commands find: as a table for people, or as JSON for scripts.

JSON has `"version": 1` and times in UTC. Lists are printed as one object a line.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.core.management.base import CommandError, CommandParser

from cloudtask.discretion import printable
from cloudtask.exceptions import EnqueueUnavailable

P = ParamSpec("P")
R = TypeVar("R")

VERSION = 1  # of the JSON
FAILED = 1  # exit status: something was not done
FOUND = 3  # exit status: differences or findings

LONGEST = 100  # characters of a cell


def refusing(handle: Callable[P, R]) -> Callable[P, R]:
    """A decorator: if the store can't be used, the command ends with the reason."""

    @wraps(handle)
    def passed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handle(*args, **kwargs)
        except EnqueueUnavailable as error:
            raise CommandError(printable(str(error))) from error

    return passed


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print JSON, one object a line"
    )


def add_common(verb: argparse.ArgumentParser, command: CommandParser) -> None:
    """Allow Django's common options also after the verb."""
    for action in command._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            again = copy.copy(action)
            again.default = argparse.SUPPRESS  # keeps a value given before the verb
            verb._add_action(again)


CLEAR = "\x1b[H\x1b[J"  # the cursor to the top, and the screen empty


def live(out: Any, seconds: float, draw: Callable[[], tuple[str, bool]]) -> None:
    """Print the text of `draw` every `seconds`, until it says that it is over.

    In a terminal each text takes the place of the one before. Elsewhere, a text that
    has not changed is left out. Ctrl-C ends it, too.
    """
    before, is_over = "", False
    while not is_over:
        text, is_over = draw()
        if out.isatty():
            out.write(CLEAR, ending="")
        if out.isatty() or text != before:
            out.write(text)
        out.flush()
        before = text
        try:
            time.sleep(0 if is_over else seconds)
        except KeyboardInterrupt:
            return


def as_json(values: Mapping[str, Any]) -> str:
    """One object on one line, without control characters."""
    text = json.dumps({"version": VERSION, **values}, default=_plain)
    return text.replace("\x7f", "\\u007f")  # the only one that JSON leaves as it is


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    return str(value)


def as_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows under the names of their columns; numbers stand at the right."""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [
        max(len(line[place]) for line in [list(columns), *cells])
        for place in range(len(columns))
    ]
    numeric = [
        bool(cells) and all(_is_number(line[place]) for line in cells)
        for place in range(len(columns))
    ]
    lines = [_line(list(columns), widths, numeric)]
    lines += [_line(line, widths, numeric) for line in cells]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    placed = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, width, is_number in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(placed).rstrip()


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").removesuffix("%").isdigit()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, timedelta):
        return str(timedelta(seconds=int(value.total_seconds())))
    text = printable(str(value).partition("\n")[0])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
