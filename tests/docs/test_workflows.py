"""The hosted CI runs the legs of noxfile.py, safely and with pinned versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# From an sdist, which has none of the hosted CI, the tests must run too.
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")
BIN = Path(sys.executable).parent


def loaded(name: str) -> Any:
    text = (ROOT / ".github/workflows" / name).read_text(encoding="utf-8")
    return yaml.safe_load(text)


def test_actions_are_pinned_to_a_commit_and_name_its_version() -> None:
    lines = [
        line.strip()
        for path in WORKFLOWS
        for line in path.read_text("utf-8").splitlines()
        if "uses:" in line
    ]
    assert len(lines) > 10
    pinned = re.compile(r"(- )?uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []


def test_the_workflows_have_no_known_weakness() -> None:
    zizmor = shutil.which("zizmor", path=str(BIN)) or "zizmor"
    done = subprocess.run(
        [zizmor, "--offline", "--quiet", ROOT / ".github"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hosted_ci_runs_the_legs_that_run_on_one_machine() -> None:
    [rest] = re.findall(r'REST="([^"]+)"', (ROOT / ".ci/run").read_text("utf-8"))
    matrix = loaded("ci.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {one["leg"] for one in matrix} == {"quick", *rest.split()}


def test_only_publishing_may_ask_pypi_for_a_token() -> None:
    rights = {
        (path.name, name): job["permissions"]
        for path in WORKFLOWS
        for name, job in loaded(path.name)["jobs"].items()
    }
    assert rights.pop(("release.yml", "publish")) == {"id-token": "write"}
    assert all(right == {"contents": "read"} for right in rights.values())


def test_the_lock_has_the_dependencies_of_the_project_from_pypi() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    packages = {package["name"]: package for package in lock["package"]}
    ours = packages.pop("django-cloudtask-defer")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = {
        re.split(r"[^A-Za-z0-9-]", one)[0].lower()
        for one in [*project["dependencies"], *(one for some in extras for one in some)]
    }
    locked = {one["name"] for one in ours["metadata"]["requires-dist"]}
    assert locked == wanted - {"django-cloudtask-defer"}, (
        "`.venv/bin/uv lock` writes uv.lock."
    )
    assert {package["source"]["registry"] for package in packages.values()} == {
        "https://pypi.org/simple"
    }
    files = [
        file["url"]
        for package in packages.values()
        for file in [*package.get("wheels", ()), package.get("sdist")]
        if file
    ]
    assert files
    assert {url.split("/")[2] for url in files} == {"files.pythonhosted.org"}
