"""Runs Django 6.1's own tests of tasks, from its source on PyPI, against our backend.

The names of the backends and the base class of the tests are replaced in them. They run
twice: with Django 6.1, and with the backport, whose names take the place of Django's.
The backport's own tests are not on PyPI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.exhaustive,
    pytest.mark.xdist_group("django's tests"),  # one process makes the environment
]

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

# With the backport, all of this comes from the backport itself.
NAMES_OF_BACKPORT = {
    "django.tasks": "django_tasks",
    "InvalidTaskBackend": "InvalidTaskBackendError",
    "InvalidTask,": "InvalidTaskError,",
    "InvalidTask\n": "InvalidTaskError\n",
    "import Task, default_task_backend": "import default_task_backend",
    "from django_tasks.backends.base": (
        "from django_tasks.base import Task\nfrom django_tasks.backends.base"
    ),
}
WORDING = "The backport's own message has other words."
NEWER = "Django 6.1 has this, and the backport does not."
EXCEPTIONS_OF_BACKPORT = EXCEPTIONS | {
    "test_custom_backend.CustomBackendTestCase."
    "test_enqueue_async_task_on_non_async_backend": WORDING,
    "test_dummy_backend.DummyBackendTestCase."
    "test_validate_disallowed_async_task": WORDING,
    "test_tasks.TaskTestCase.test_run_after_in_decorator": WORDING,
    "test_tasks.TaskTestCase.test_pickle_task": NEWER,
    "test_tasks.TaskTestCase.test_pickle_task_result": NEWER,
    "test_tasks.TaskTestCase.test_unpickle_arbitrary_string": NEWER,
    "test_tasks.TaskTestCase.test_unpickle_non_task_object": NEWER,
}
if sys.version_info < (3, 12):
    EXCEPTIONS_OF_BACKPORT[
        "test_custom_backend.CustomBackendTestCase.test_no_enqueue"
    ] = "It expects a message of Python 3.12."


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
    replace(REPLACED, (tmp_path / "tasks").glob("test_*.py"))
    for file in PORTED.glob("*.py"):
        shutil.copy(file, tmp_path)
    return tmp_path


def replace(texts: Mapping[str, str], files: Iterable[Path]) -> None:
    for file in files:
        text = file.read_text()
        for old, new in texts.items():
            text = text.replace(old, new)
        file.write_text(text)


def failures(output: str) -> set[str]:
    """The tests that failed, as their module, class and name."""
    return set(re.findall(r"^(?:ERROR|FAIL): \w+ \(tasks\.([\w.]+)\)", output, re.M))


def check(python: Path, suite: Path, exceptions: Mapping[str, str]) -> None:
    """Run the tests; those that fail are these exceptions, and no others."""
    # Some asynchronous tests call get_result() directly. Ours reads the database.
    environ = {**os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE": "1"}
    command = ("-m", "django", "test", "tasks", "--settings=project")
    done = run(python, *command, cwd=suite, env=environ)

    assert f"Ran {TESTS} tests" in done.stderr, done.stderr[-4000:]
    assert failures(done.stderr) == set(exceptions), done.stderr[-8000:]


def test_all_pass_that_are_not_about_another_backend(
    environment: Path, suite: Path
) -> None:
    check(environment, suite, EXCEPTIONS)


def test_all_pass_with_the_backport_that_are_not_about_another_backend(
    suite: Path,
) -> None:
    if not metadata.version("django-tasks").startswith("0.12."):
        skip("the names that it replaces are those of the backport's version 0.12")
    replace(NAMES_OF_BACKPORT, [*suite.glob("tasks/*.py"), suite / "backends.py"])
    check(Path(sys.executable), suite, EXCEPTIONS_OF_BACKPORT)
