"""Hints for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to a misspelt one, else all of them, for an error text."""
    names = {one.casefold(): one for one in sorted(known)}
    if not names:
        return "there are none."
    close = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "known are " + ", ".join(names.values()) + "."


def check_known(call: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError, with the nearest known one, for a keyword that `call` lacks."""
    for name in given:
        if name not in known:
            raise TypeError(f"{call} takes no {name!r}; {nearest(name, known)}")
