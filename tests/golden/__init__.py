"""The golden list: every name that rests in a store or travels in a task.

`python -m tests.golden` prints the names as the code has them now; with `--write` it
rewrites names.txt. Write it on purpose only: a changed name breaks what older versions
have stored or sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = Path(__file__).with_name("names.txt")


def written(names: Mapping[str, Iterable[str]]) -> str:
    """The text of names.txt: one section a kind, one sorted line a name."""
    return "\n".join(
        "\n".join([f"[{kind}]", *sorted(set(found)), ""])
        for kind, found in names.items()
    )
