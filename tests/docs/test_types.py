"""The Python blocks of the pages pass mypy.

Names that a block takes from the page around it are of any type. Errors about them, and
about functions without a body, are left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, blocks, pages

SETTINGS = """
[mypy]
python_version = 3.11
plugins = mypy_django_plugin.main
check_untyped_defs = True
ignore_missing_imports = True
disable_error_code = name-defined, empty-body, no-redef
[mypy-tests.*]
ignore_errors = True
[mypy.plugins.django-stubs]
django_settings_module = tests.settings
"""


def test_the_blocks_of_the_pages_pass_mypy(tmp_path: Path) -> None:
    for page in pages():
        stem = re.sub(r"\W", "_", page)
        for number, code in enumerate(blocks(page)):
            (tmp_path / f"{stem}_{number}.py").write_text(code)
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS)
    files = sorted(map(str, tmp_path.glob("*.py")))
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings)]
    done = subprocess.run(
        [*command, "--scripts-are-modules", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
