"""Runs Django 6.1's own tests of tasks, from its source on PyPI, against our backend.

The names of the backends and the base class of the tests are replaced in them. The
source of the backport, django-tasks 0.12, has no tests on PyPI, so they can't be run in
this way.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.exhaustive]

DJANGO = "django==6.1.*"
PYTHON = "python3.13"
CACHE = ROOT / "build" / "django-tasks"
PORTED = ROOT / "tests" / "acceptance" / "ported" / "django_tasks"
TESTS = 85
LONGEST = 300  # seconds for one command

# What the tests name, and what stands in its place.
REPLACED = {
    "from django.tasks.backends.dummy import DummyBackend": (
        "from backends import Waiting as DummyBackend"
    ),
    "from django.tasks.backends.immediate import ImmediateBackend": (
        "from backends import Immediate as ImmediateBackend"
    ),
    "django.tasks.backends.dummy.DummyBackend": "backends.Waiting",
    "django.tasks.backends.immediate.ImmediateBackend": "backends.Immediate",
    # Results are in the database, which a SimpleTestCase must not use. A TestCase has
    # a transaction open, which the other thread of an asynchronous test would wait for.
    "SimpleTestCase, TransactionTestCase,": "TransactionTestCase,",
    "SimpleTestCase": "TransactionTestCase",
}

LIST = "It reads the list of results that only the dummy backend has."
REFUSAL = "It expects a refusal of the immediate backend. Ours can do this."
EXCEPTIONS = {
    "test_dummy_backend.DummyBackendTestCase.test_enqueue_task": LIST,
    "test_dummy_backend.DummyBackendTestCase.test_enqueue_task_async": LIST,
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result": LIST,
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result_async": LIST,
    "test_dummy_backend.DummyBackendTransactionTestCase."
    "test_doesnt_wait_until_transaction_commit_by_default": LIST,
    "test_tasks.TaskTestCase.test_enqueue_task": LIST,
    "test_tasks.TaskTestCase.test_enqueue_task_async": LIST,
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_get_result": REFUSAL,
    "test_immediate_backend.ImmediateBackendTestCase."
    "test_cannot_refresh_result": REFUSAL,
    "test_immediate_backend.ImmediateBackendTestCase."
    "test_cannot_pass_run_after": REFUSAL,
}


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, timeout=LONGEST, **options
    )


def skip(why: str) -> None:
    print(f"Django's own tests of tasks did not run: {why}")
    pytest.skip(why)


def python_path() -> str:
    """A Python that Django 6.1 runs on; where there is none, the test is skipped."""
    versions = Path.home() / ".pyenv" / "versions"
    found = sorted(versions.glob(f"3.13*/bin/{PYTHON}"))
    python = str(found[-1]) if found else shutil.which(PYTHON)
    if python is None:
        skip(f"{PYTHON} was not found")
    return str(python)


@pytest.fixture(scope="session")
def environment() -> Path:
    """The Python of an environment that has Django 6.1 and this package."""
    python = CACHE / "env" / "bin" / "python"
    if not python.exists():
        run(python_path(), "-m", "venv", CACHE / "env", check=True)
    install = run(python, "-m", "pip", "install", "-q", DJANGO, "-e", ROOT)
    if install.returncode:
        skip(f"{DJANGO} could not be installed from PyPI")
    return python


@pytest.fixture(scope="session")
def source(environment: Path) -> Path:
    """The archive with the source of the Django that is installed."""
    shown = run(environment, "-m", "django", "--version", check=True).stdout.strip()
    archive = CACHE / f"django-{shown}.tar.gz"
    if not archive.exists():
        options = ("--no-binary", ":all:", "--no-deps", "-q", "-d", CACHE)
        run(environment, "-m", "pip", "download", *options, f"django=={shown}")
    if not archive.exists():
        skip("the source of Django could not be downloaded from PyPI")
    return archive


@pytest.fixture
def suite(source: Path, tmp_path: Path) -> Path:
    """A folder with Django's tests of tasks, in which our backend is named."""
    with tarfile.open(source) as archive:
        top = source.name.removesuffix(".tar.gz")
        wanted = [m for m in archive if m.name.startswith(f"{top}/tests/tasks/")]
        archive.extractall(tmp_path, members=wanted, filter="data")
    shutil.move(tmp_path / top / "tests" / "tasks", tmp_path / "tasks")
    for file in (tmp_path / "tasks").glob("test_*.py"):
        text = file.read_text()
        for old, new in REPLACED.items():
            text = text.replace(old, new)
        file.write_text(text)
    for file in PORTED.glob("*.py"):
        shutil.copy(file, tmp_path)
    return tmp_path


def failures(output: str) -> set[str]:
    """The tests that failed, as their module, class and name."""
    return set(re.findall(r"^(?:ERROR|FAIL): \w+ \(tasks\.([\w.]+)\)", output, re.M))


def test_all_pass_that_are_not_about_another_backend(
    environment: Path, suite: Path
) -> None:
    # Some asynchronous tests call get_result() directly. Ours reads the database.
    environ = {**os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE": "1"}
    command = ("-m", "django", "test", "tasks", "--settings=project")
    done = run(environment, *command, cwd=suite, env=environ)

    assert f"Ran {TESTS} tests" in done.stderr, done.stderr[-4000:]
    assert failures(done.stderr) == set(EXCEPTIONS), done.stderr[-8000:]
