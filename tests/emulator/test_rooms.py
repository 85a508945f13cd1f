"""The wings of the emulator: imports point down, and go through one door each."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloudtask.emulator

ROOT = Path(cloudtask.emulator.__file__).parent
PACKAGE = "cloudtask.emulator."
# From the bottom up. A wing imports from lower floors and from itself only.
FLOORS = [
    {"protocol"},
    {"queues"},
    {"calls"},
    {"journal", "tokens", "dispatch"},
    {"options"},
    {"serving"},
    {"embedded", "cli"},
    {"__main__"},
]
FLOOR_OF = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT) + sorted(
    path for path in ROOT.glob("*.py") if path.name != "__init__.py"
)


def wing_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each import from the emulator."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                yield str(node.module).removeprefix(PACKAGE), alias.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = wing_of(path)
    for module, _ in imported(path):
        there = module.split(".")[0]
        if there != here:
            assert FLOOR_OF[there] < FLOOR_OF[here], f"{here} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_wing_is_entered_by_its_door(path: Path) -> None:
    for module, name in imported(path):
        wing, _, inside = module.partition(".")
        if not inside and not (ROOT / wing).is_dir():
            continue
        if wing == wing_of(path):
            is_module = (ROOT / wing / f"{name}.py").exists()
            assert inside or is_module, f"{name} comes from the wing's own door"
            continue
        door = importlib.import_module(PACKAGE + wing)
        shown = inside.split(".")[0] if inside else name
        assert shown in door.__all__, f"{module}.{name} has no place in the door"


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {path.name for path, lines in lengths.items() if lines > 300} == set()
