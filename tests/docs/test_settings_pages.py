"""Settings as the documentation shows them are settings that the library accepts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.test import override_settings

from cloudtask import checks
from tests.docs.blocks import ROOT, block, blocks, pages

BLOCKS = [
    pytest.param(code, id=page)
    for page in pages()
    for code in blocks(page)
    if re.search(r"^CLOUDTASK = ", code, re.MULTILINE)
]


def shown(code: str) -> Any:
    """The value that a block gives to CLOUDTASK."""
    (value,) = (
        node.value
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CLOUDTASK"
    )
    return ast.literal_eval(value)


@pytest.fixture
def _shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The carriers that pages show, where their settings name them."""
    shop, tenants = ModuleType("shop"), ModuleType("shop.tenants")
    context, telemetry = ModuleType("shop.context"), ModuleType("shop.telemetry")
    vars(tenants).update(current_tenant=None, use_tenant=None)
    for module in (shop, tenants, context, telemetry):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block("docs/howto/context.md", "class Tenant"), vars(context))
    exec(block("docs/howto/observability.md", "check_ins=True"), vars(telemetry))


@pytest.mark.usefixtures("_shop")
@pytest.mark.parametrize("code", BLOCKS)
def test_settings_that_a_page_shows_are_accepted(code: str) -> None:
    with override_settings(CLOUDTASK=shown(code)):
        assert checks.settings_are_right(None) == []


def backends() -> Iterator[tuple[str, dict[str, str]]]:
    """The setting key of each row of settings.md, with each backend in the row."""
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    for key, row in re.findall(r"^\| `(\w+)` \|(.*)$", text, re.MULTILINE):
        for backend in re.findall(r'`(\{"BACKEND": [^`]*\})`', row):
            yield key, ast.literal_eval(backend)


@pytest.mark.parametrize(("key", "backend"), list(backends()))
def test_the_backends_of_the_reference_are_accepted(
    key: str, backend: dict[str, str]
) -> None:
    settings = {"PROJECT": "p", "LOCATION": "l", key: backend}
    with override_settings(CLOUDTASK=settings):
        assert checks.settings_are_right(None) == []


def test_the_reference_shows_both_transports() -> None:
    assert sum(key == "TRANSPORT" for key, _ in backends()) == 2


LOGS = """
import logging
from django.conf import settings
from tests.docs.blocks import executed

page = executed("docs/howto/security.md", "LOGGING = {")
settings.configure(LOGGING=page["LOGGING"], DEBUG=True)
import django
django.setup()
for name in ("django", "django.request", "django.server"):
    assert not logging.getLogger(name).disabled, name
logging.getLogger("django.security.cloudtask").error("refused")
logging.getLogger("django.request").error("broken")
"""


def test_the_logging_of_the_security_page_keeps_djangos_own_logs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stderr
    assert "broken" in done.stderr
