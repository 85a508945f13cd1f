"""The reference has the settings, options and checks of the code, and no others."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils.module_loading import import_string

import cloudtask
from cloudtask import conf, inspect
from cloudtask.backend.backend_options import OF_TASK
from tests.docs import reference
from tests.docs.blocks import ROOT

SETTINGS = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
# The rows of CLOUDTASK's keys; variables of the environment are of another table.
ROWS = re.findall(r"^\| `([A-Z_]+)` \|.*\| (.*) \|$", SETTINGS, re.MULTILINE)
KEYS = {key: default for key, default in ROWS if key in conf._KEYS}


def test_the_options_are_those_of_the_list() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    assert page == reference.with_table(), "python -m tests.docs.reference writes it."


def test_the_commands_are_those_of_the_parsers() -> None:
    page = reference.COMMANDS.read_text(encoding="utf-8")
    assert page == reference.with_commands(), (
        "python -m tests.docs.reference writes it."
    )


def test_each_option_of_a_command_has_a_meaning() -> None:
    rows = re.findall(r"^\| `.*\|$", reference.with_commands(), re.MULTILINE)
    assert rows
    for row in rows:
        meaning = row.rpartition("` | ")[2].removesuffix("|").strip()
        assert re.search(r"[a-z]", meaning), row


def test_the_page_of_inspect_has_all_its_names() -> None:
    page = (ROOT / "docs/reference/inspect.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)
    assert {name.rpartition(".")[2] for name in shown} == set(inspect.__all__)
    for name in shown:
        assert import_string(name) is getattr(inspect, name.rpartition(".")[2])


def test_the_page_about_django_tasks_names_the_options_of_its_backend() -> None:
    page = (ROOT / "docs/howto/django-tasks.md").read_text(encoding="utf-8")
    row = ", ".join(f"`{name}`" for name in OF_TASK)
    assert f"| {row} |" in page


def test_every_setting_has_one_row() -> None:
    listed = sorted(key for key, _ in ROWS if key in conf._KEYS)
    assert listed == sorted(conf._KEYS)


def shown(default: Any) -> str:
    """A default as the page shows it."""
    if isinstance(default, timedelta):
        return _duration(default)
    if isinstance(default, tuple):
        return ", ".join(f"`{one}`" for one in default) or "`()`"
    if isinstance(default, dict):
        return f"`{default}`".replace("'", '"')
    return f"`{default}`" if isinstance(default, bool) else f"{default:,}"


def _duration(value: timedelta) -> str:
    for unit, name in ((86400, "days"), (60, "minutes"), (1, "seconds")):
        count, rest = divmod(value.total_seconds(), unit)
        if not rest and count > 1:
            return f"{count:.0f} {name}"
    raise AssertionError(value)


@pytest.mark.parametrize(
    "key", [key for key, (default, _) in conf._KEYS.items() if default is not None]
)
def test_a_setting_has_the_default_that_its_row_shows(key: str) -> None:
    default, _ = conf._KEYS[key]
    assert KEYS[key].startswith(shown(default))


def listed(page: str) -> set[str]:
    """The names in the first cells of a page's tables."""
    text = (ROOT / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_settings_has_the_checks_of_the_code_and_no_others() -> None:
    code = [path.read_text() for path in Path(cloudtask.__file__).parent.rglob("*.py")]
    ids = set(re.findall(r'"(cloudtask\.[EW]\d+)"', "".join(code)))
    names = listed("docs/reference/settings.md")
    assert {name for name in names if re.match(r"cloudtask\.[EW]\d", name)} == ids
