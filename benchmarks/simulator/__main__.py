"""`python -m benchmarks.simulator`: what loads need, as tables in Markdown.

With `--write`, it puts them into docs/explanation/scale.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.simulator.needs import table_of_calls, table_of_walks

PAGE = Path(__file__).parents[2] / "docs/explanation/scale.md"


def with_tables(page: str) -> str:
    """The text of the page with its tables as they are computed."""
    tables = iter([table_of_calls(), table_of_walks()])
    return re.sub(r"(?m)(^\|.*\n)+", lambda found: next(tables) + "\n", page)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(with_tables(PAGE.read_text()))
    else:
        print(table_of_calls(), table_of_walks(), sep="\n\n")
