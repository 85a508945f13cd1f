"""Every name that the guides mention can be imported."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDES = [
    "from-djangae.md",
    "from-celery.md",
    "from-appengine-deferred.md",
    "django-tasks.md",
]


def text_of(guide):
    return (DOCS / "howto" / guide).read_text()


def names_in(guide):
    """The dotted names of ours; `a.b.c`, `d` in one cell stands for a.b.c and a.b.d."""
    for cell in re.findall(r"[^|\n]+", text_of(guide)):
        names = re.findall(r"\bcloudtask(?:\.\w+)+", cell)
        yield from names
        if len(names) == 1 and re.fullmatch(r"\s*`[\w.]+`(, `\w+`)+\s*", cell):
            module = names[0].rpartition(".")[0]
            yield from (f"{module}.{name}" for name in re.findall(r", `(\w+)`", cell))


def found(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_name_of_ours_in_a_guide_is_there(guide):
    names = set(names_in(guide)) - {"cloudtask.git"}
    assert names
    for name in names:
        assert found(name) is not None, name


def test_the_table_of_imports_has_every_name_that_the_module_offers():
    from cloudtask import deferred, environment

    told = set(names_in("from-djangae.md"))
    assert {f"cloudtask.deferred.{name}" for name in deferred.__all__} <= told
    questions = ["is_in_task", "is_in_cron", "task_name", "task_queue_name"]
    questions += ["task_retry_count", "task_execution_count"]
    assert {f"cloudtask.environment.{name}" for name in questions} <= told
    assert all(hasattr(environment, name) for name in questions)


def test_every_option_of_defer_is_in_the_table():
    from cloudtask import deferred

    told = text_of("from-djangae.md")
    others = ["_countdown", "_eta", "_retry_options", "_target"]
    for option in [*deferred._OPTIONS, *others]:
        assert f"`{option}`" in told, option
