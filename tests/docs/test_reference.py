"""The reference names every setting, option and check that the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import cloudtask
from cloudtask import conf
from cloudtask.options import OPTION_NAMES
from tests.docs.blocks import ROOT


def listed(page: str) -> set[str]:
    """The names in the first cells of a page's tables."""
    text = (ROOT / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_settings_has_every_key() -> None:
    keys = {field.name.upper() for field in fields(conf.Settings)}
    assert keys - {"SIGNING_SECRETS"} <= listed("docs/reference/settings.md")


def test_settings_has_the_checks_of_the_code_and_no_others() -> None:
    code = [path.read_text() for path in Path(cloudtask.__file__).parent.rglob("*.py")]
    ids = set(re.findall(r'"(cloudtask\.[EW]\d+)"', "".join(code)))
    names = listed("docs/reference/settings.md")
    assert {name for name in names if re.match(r"cloudtask\.[EW]\d", name)} == ids


def test_options_has_every_option() -> None:
    assert set(OPTION_NAMES) <= listed("docs/reference/options.md")
