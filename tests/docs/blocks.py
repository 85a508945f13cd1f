"""Code blocks of the documentation, so that tests can run them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from tests.docs import shop

ROOT = Path(__file__).resolve().parents[2]


def pages() -> list[str]:
    """README and the pages of docs/, as paths from the root of the repository."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(str(page.relative_to(ROOT)) for page in found)]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block(page: str, containing: str) -> str:
    """The only Python block of `page` that contains this text."""
    (found,) = (code for code in blocks(page) if containing in code)
    return found


def executed(page: str, containing: str) -> dict[str, Any]:
    """The names that a block defines. `shop.tasks` is tests/docs/shop.py in it."""
    names: dict[str, Any] = {"__name__": __name__}
    sys.modules["shop"] = sys.modules["shop.tasks"] = shop
    try:
        exec(compile(block(page, containing), page, "exec"), names)
    finally:
        del sys.modules["shop"], sys.modules["shop.tasks"]
    return names
