"""The tables of the reference that follow from the code.

`python -m tests.docs.reference` writes them into docs/reference/; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cloudtask.options import OPTIONS, Option
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/reference/options.md"
TABLE = re.compile(r"^\| option \| meaning \| default \|\n(?:\|.*\n)+", re.MULTILINE)


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


if __name__ == "__main__":
    PAGE.write_text(with_table(), encoding="utf-8")
