"""Imports only point down, and what is public is what is said to be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cloudtask

ROOT = Path(cloudtask.__file__).parent
# From the bottom up. A noun imports from lower floors and from itself only; a package
# is one noun.
FLOORS = [
    {
        *("addresses", "asynchrony", "clients", "clock", "datastore_emulator"),
        *("development", "discretion"),
        *("exceptions", "failpoints", "quotas", "signals", "signing"),
    },
    {"options", "runs", "context"},
    {"progress", "transitions"},
    {"message"},
    {"conf"},
    {"codec"},
    {"envelope"},
    {"registry", "callables", "carriers", "targets"},
    {"models"},
    {"stores", "transports"},
    {"queues", "sending"},
    {"chains"},
    {"delivering"},
    {"runtime"},
    {"iteration", "receipts", "schedules"},
    {"inspect", "workflows"},
    {"deferrable"},
    {"decorators"},
    {"backend", "deferred", "environment", "gauges"},
    {"views"},
    {"doctor", "reachability"},
    {"middleware", "checks", "contrib", "dashboard", "logging", "testruns"},
    {
        *("admin", "apps", "management", "migrations", "sandbox", "templatetags"),
        *("testing", "urls"),
    },
    {"pytest_plugin"},
]
FLOOR_OF = {noun: number for number, nouns in enumerate(FLOORS) for noun in nouns}
# Its own program, which the rest starts but that uses nothing of the rest.
APART = "emulator"
MAY_READ_SETTINGS = {
    "cloudtask.conf",
    # Knows no project but the one that starts it, and is apart from conf.
    "cloudtask.management.commands.cloudtask_emulator",
}


# One process reads all modules, once.
pytestmark = pytest.mark.xdist_group("architecture")


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ("cloudtask", *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = path
    return found


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, those inside functions too, but not what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if not is_for_types_only(child):
            yield child
            yield from walk(child)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules that a module names in imports, absolute or relative."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in modules() else base)
        elif isinstance(node, ast.Call) and node.args:
            called, first = ast.unparse(node.func), node.args[0]
            if called.endswith("import_module") and isinstance(first, ast.Constant):
                found.add(str(first.value))
    return frozenset(found)


def ours(name: str) -> frozenset[str]:
    return frozenset(m for m in imports(name) if m.split(".")[0] == "cloudtask")


def floors() -> str:
    """The floors as CONTRIBUTING.md shows them, from the top down."""
    return "\n".join(f"    {', '.join(sorted(nouns))}" for nouns in reversed(FLOORS))


def test_contributing_shows_the_floors() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    assert f"\n\n{floors()}\n\n" in text, f"Write there:\n\n{floors()}"


def noun(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    here = noun(name)
    if here in ("", APART):
        return
    assert here in FLOOR_OF, f"{here} has no floor yet: give it one in FLOORS."
    for module in ours(name):
        there = noun(module)
        if there in (here, APART):
            continue
        assert there, f"{name} imports the package itself, not a module of it."
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{name} imports {module}, above it."


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: ours(name) - {name, "cloudtask"} for name in modules()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_emulator_uses_nothing_of_the_rest_and_nothing_of_django() -> None:
    for name in modules():
        if noun(name) != APART:
            continue
        assert {noun(m) for m in ours(name)} <= {APART}, name
        assert not [m for m in imports(name) if m.split(".")[0] == "django"], name


def test_only_conf_reads_the_settings_of_django() -> None:
    readers = {
        name
        for name in modules()
        if any(
            m == "django.conf" or m.startswith("django.conf.") for m in imports(name)
        )
    }
    assert readers <= MAY_READ_SETTINGS, readers - MAY_READ_SETTINGS


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "manager", "base", "core"}
    names = {part for name in modules() for part in name.split(".")}
    assert not names & drawers


PUBLIC = sorted(
    name
    for name, path in modules().items()
    if "migrations" not in name and "\n__all__ = [" in path.read_text()
)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_said_to_be_public_is_there(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), public


def test_the_package_shows_what_it_says() -> None:
    assert set(cloudtask.__all__) == set(cloudtask._HOMES)
    assert set(cloudtask.__all__) <= set(dir(cloudtask))
    stub = ast.parse((ROOT / "__init__.py").read_text())
    typed = {
        alias.name
        for node in stub.body
        if is_for_types_only(node)
        for imported in ast.walk(node)
        if isinstance(imported, ast.ImportFrom)
        for alias in imported.names
    }
    assert typed == set(cloudtask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tusk'"):
        _ = cloudtask.tusk


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`."""
    script = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT.parent)},
    )
    return set(done.stdout.split())


HEAVY = ("google", "grpc", "django.db.models", "cloudtask.models", "aiohttp")


def heavy(names: set[str]) -> list[str]:
    return [n for n in names if any(n == h or n.startswith(h + ".") for h in HEAVY)]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy(loaded_by("import cloudtask")) == []


def test_importing_the_public_names_loads_neither_google_nor_grpc_nor_models() -> None:
    loaded = loaded_by("from cloudtask import *")
    models = [n for n in heavy(loaded) if not n.startswith("django.db.models")]
    assert models == []


def test_a_module_that_declares_tasks_loads_none_of_the_rooms_behind_them() -> None:
    loaded = loaded_by(
        "from django.conf import settings; settings.configure(); "
        "from cloudtask import task, call, Retry"
    )
    rooms = {noun(name) for name in loaded if name.split(".")[0] == "cloudtask"}
    behind = {"carriers", "conf", "envelope", "iteration", "receipts", "runtime"}
    assert rooms & (behind | {"schedules", "stores", "targets", "workflows"}) == set()


def test_the_plugin_of_pytest_loads_nothing_heavy() -> None:
    assert heavy(loaded_by("import cloudtask.pytest_plugin")) == []


if __name__ == "__main__":
    print(floors())
