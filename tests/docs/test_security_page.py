"""Each promise and threat of the pages about security names tests that are there."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import pytest

from tests.docs.blocks import ROOT

PAGES = ("SECURITY.md", "docs/howto/security.md")
TABLES = (
    ("SECURITY.md", "| promise | test |"),
    ("docs/howto/security.md", "| promise | test |"),
    ("docs/howto/security.md", "| threat | defense | test |"),
)


def rows_of(page: str, head: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"{head}\n")[2].partition("\n\n")[0].splitlines()[1:]


@lru_cache
def defined_in(path: str) -> set[str]:
    """The test functions of a file, by the parser: no name in a comment counts."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize(("page", "head"), TABLES)
def test_each_line_names_tests_that_are_there(page: str, head: str) -> None:
    rows = rows_of(page, head)
    assert len(rows) > 5
    for row in rows:
        cell = row.rstrip("| ").rpartition("| ")[2]
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
        assert len(named) == cell.count("`tests/") > 0, row
        for path, name in named:
            assert name in defined_in(path), f"{path}::{name}"


@pytest.mark.parametrize("page", PAGES)
def test_no_other_part_of_the_page_names_a_test_that_is_gone(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", text):
        assert name in defined_in(path), f"{path}::{name}"


# The threats of the design, by a word of the line that answers each.
THREATS = {
    "posts to the handler",
    "forged or altered body",
    "captured body",
    "dangerous function",
    "unpickling",
    "tables or entities",
    "another host",
    "secrets in logs",
    "flood",
}


def test_the_table_has_each_threat_of_the_design() -> None:
    rows = rows_of(*TABLES[2])
    for threat in THREATS:
        assert any(threat in row.split("|")[1] for row in rows), threat
