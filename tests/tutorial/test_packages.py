"""The packages that a release publishes, installed into empty environments."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import cloudtask
from tests.docs.blocks import ROOT

# They are built once, by one process, and pip fetches dependencies from PyPI.
pytestmark = [pytest.mark.tutorial, pytest.mark.xdist_group("packages")]

# Uses the package as a project does that has nothing else installed.
PROGRAM = f"""
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="x" * 50,
    INSTALLED_APPS=["cloudtask"],
    DATABASES={{
        "default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    }},
    CLOUDTASK={{
        "PROJECT": "p",
        "LOCATION": "l",
        "TRUSTED_MODULES": ["string"],
        "TRANSPORT": {{"BACKEND": "cloudtask.transports.memory.MemoryTransport"}},
    }},
)
django.setup()
call_command("migrate", verbosity=0)
import string

import cloudtask
from cloudtask.testing import run_queued

cloudtask.task(string.capwords).defer("a word")
assert len(run_queued()) == 1, "The task did not run."
assert cloudtask.__version__ == "{cloudtask.__version__}"
assert "site-packages" in cloudtask.__file__
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", f"--outdir={folder}", ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return wheel, sdist


def test_pypi_will_accept_the_packages(packages: tuple[Path, Path]) -> None:
    check = (sys.executable, "-m", "twine", "check", "--strict")
    assert run(*check, *packages, cwd=ROOT).count("PASSED") == 2


def test_the_wheel_has_the_package_alone(packages: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(packages[0]) as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "cloudtask",
        "django_cloudtask_defer",
    }
    wanted = {"py.typed", "migrations/0001_initial.py", "templatetags/__init__.py"}
    assert {f"cloudtask/{name}" for name in wanted} <= set(names)
    listed = run("git", "ls-files", "cloudtask", cwd=ROOT).split()
    assert {name for name in names if name.startswith("cloudtask/")} == set(listed)


def test_the_sdist_has_tests_and_documentation_and_what_they_read(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(packages[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    listed = run("git", "ls-files", cwd=ROOT).split()
    left_out = {name for name in listed if not (source / name).exists()}
    assert left_out == {
        name
        for name in listed
        if name.startswith((".ci/", ".github/")) or name in HOSTED
    }
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider")
    run(*pytest_, "tests/docs/test_reference.py", "tests/test_limits.py", cwd=source)


HOSTED = {".readthedocs.yaml", "uv.lock"}


@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_a_task_runs_in_an_empty_environment(
    kind: int, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", packages[kind], cwd=tmp_path)
    run(python, "-c", PROGRAM, cwd=tmp_path)
