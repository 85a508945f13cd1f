"""Python blocks of the pages parse, and what they import from cloudtask is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.docs.blocks import blocks, pages

BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in pages()
    for number, code in enumerate(blocks(page))
]


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if module.partition(".")[0] == "cloudtask":
            yield from ((module, alias.name) for alias in node.names)  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_parses_and_its_imports_are_there(code: str) -> None:
    for module, name in imported(ast.parse(code)):
        if not hasattr(import_module(module), name):
            import_module(f"{module}.{name}")
