"""The DATABASES of docs/howto/sqlite.md do to SQLite what the page says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from django.db.utils import ConnectionHandler

from tests.docs.blocks import block


def shown() -> dict[str, Any]:
    """The OPTIONS of the page."""
    tree = ast.parse(block("docs/howto/sqlite.md", "DATABASES = {"))
    options = next(
        value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "OPTIONS"
    )
    found: dict[str, Any] = ast.literal_eval(options)
    return found


@pytest.mark.django_db
def test_the_options_take_effect(tmp_path: Path) -> None:
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": tmp_path / "db.sqlite3",
        "OPTIONS": shown(),
    }
    connection = ConnectionHandler({"default": database})["default"]
    pragmas = {}
    with connection.cursor() as cursor:
        for pragma in ("journal_mode", "synchronous", "busy_timeout"):
            (pragmas[pragma],) = cursor.execute(f"PRAGMA {pragma}").fetchone()
    transaction_mode = connection.transaction_mode  # type: ignore[attr-defined]
    connection.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 20_000}
    assert transaction_mode == "IMMEDIATE"
