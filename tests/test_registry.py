"""Modules of tasks: how a worker finds them, and which tasks it would not find."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.test import override_settings

from cloudtask import registry
from cloudtask.deferrable import wrapper
from cloudtask.exceptions import ConfigurationError, TaskNotFound
from cloudtask.testing import queued, run_queued
from tests.testapp.tasks import note

numbers = itertools.count()


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Write and import a module; the second time, reload it."""
    name = f"written_{next(numbers)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for module, attribute in (
        (registry, "_known"),
        (registry, "_specs"),
        (registry, "_findable"),
        (wrapper, "_tasks"),
    ):
        monkeypatch.setattr(module, attribute, getattr(module, attribute).copy())

    def write(source: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text("from cloudtask import task\n" + textwrap.dedent(source))
        importlib.invalidate_caches()
        if name in sys.modules:
            return importlib.reload(sys.modules[name])
        return importlib.import_module(name)

    with override_settings(CLOUDTASK={"TRUSTED_MODULES": [name]}):
        yield write
    sys.modules.pop(name, None)
    sys.modules.pop("elsewhere", None)


def test_a_reloaded_module_replaces_its_tasks(write: Any) -> None:
    first = write("@task\ndef job(): return 1\n")
    second = write("\n\n# moved\n@task\ndef job(): return 2\n")
    assert first is second
    second.job.defer()
    assert run_queued().ran[0].value == 2


def test_a_module_that_is_imported_anew_replaces_its_tasks(write: Any) -> None:
    first = write("@task\ndef job(): return 1\n")
    del sys.modules[first.__name__]
    write("\n\n@task\ndef job(): return 2\n").job.defer()
    assert run_queued().ran[0].value == 2


def test_two_tasks_of_one_path_are_refused_with_both_places(write: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        write("@task\ndef job(): return 1\n@task\ndef job(): return 2\n")
    assert ".py:2," in str(caught.value)
    assert ".py:4." in str(caught.value)
    assert "Rename one" in str(caught.value)


def test_a_task_may_have_the_name_of_one_elsewhere(write: Any) -> None:
    module = write(
        """
        class A:
            @staticmethod
            @task
            def job(): return "A"
        class B:
            @staticmethod
            @task
            def job(): return "B"
        @task
        def job(): return "module"
        """
    )
    for deferred in (module.A.job, module.B.job, module.job):
        deferred.defer()
    assert [ran.value for ran in run_queued().ran] == ["A", "B", "module"]


def test_a_worker_that_has_not_imported_the_module_does_so(write: Any) -> None:
    module = write("class Deep:\n  class Er:\n    @task\n    def job(self): return 7\n")
    path = module.Deep.Er.job.path
    registry._known.pop(path)
    del sys.modules[module.__name__]
    assert registry.find(path).path == path
    assert sys.modules[module.__name__] is not module


def test_a_module_that_is_not_trusted_is_not_imported(write: Any) -> None:
    module = write("@task\ndef job(): ...\n")
    registry._known.clear()
    del sys.modules[module.__name__]
    with override_settings(CLOUDTASK={}), pytest.raises(TaskNotFound):
        registry.find(f"{module.__name__}.job")
    assert module.__name__ not in sys.modules


def test_a_name_may_be_there_if_its_module_is_not_imported(write: Any) -> None:
    module = write("print('imported')\n@task\ndef job(): ...\n")
    name = module.__name__
    assert registry.may_have(f"{name}.job")
    assert not registry.may_have(f"{name}.other")
    assert not registry.may_have(f"{name}.Class.job")
    registry._known.clear()
    del sys.modules[name]
    assert registry.may_have(f"{name}.job")
    assert registry.may_have(f"{name}.other")
    with override_settings(CLOUDTASK={}):
        assert not registry.may_have(f"{name}.job")
    assert name not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a", "a.", ".a", "a..b", "tests.\0.job", "a b.c", "job", "\u017e.a"),
        "tests.testapp.gone.job",
        "tests.testapp.unimported",  # no task: it would be one of the package
        "tests.testapp.tasks.gone",
        "nobody_has.this",
        "a." * 5000 + "a",
    ],
)
def test_a_name_that_no_module_can_have_is_not_there(name: str) -> None:
    assert not registry.may_have(name)


def test_a_name_in_a_package_that_is_not_imported_may_be_there() -> None:
    assert registry.may_have("tests.testapp.tasks.note")
    assert registry.may_have("tests.testapp.unimported.reached")


def test_a_module_that_is_broken_does_not_look_like_an_unknown_task(
    write: Any,
) -> None:
    module = write("@task\ndef job(): ...\n")
    path = Path(str(module.__file__))
    path.write_text("import a_package_that_is_not_installed\n")
    registry._known.clear()
    del sys.modules[module.__name__]
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        registry.find(f"{module.__name__}.job")


def test_the_tasks_of_each_app_are_discovered_at_start() -> None:
    assert apps.is_installed("tests.testapp")
    script = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from cloudtask import registry
assert "tests.testapp.tasks.note" in registry.tasks()
assert "google.cloud.tasks_v2" not in sys.modules
assert "grpc" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# Tasks that a worker would not find.


@pytest.fixture
def second_name(write: Any) -> ModuleType:
    """A module of tasks, imported under another name than the one that is trusted."""
    module = write("@task\ndef job(): ...\n")
    spec = importlib.util.spec_from_file_location("elsewhere", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["elsewhere"] = found
    spec.loader.exec_module(found)
    return found


def test_a_task_under_a_second_name_is_refused_with_the_right_one(
    second_name: ModuleType,
) -> None:
    with pytest.raises(ConfigurationError, match=r"import it as written_\d+\.job"):
        second_name.job.defer()
    assert queued() == []


def test_a_task_under_a_second_name_may_be_trusted(second_name: ModuleType) -> None:
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": ["elsewhere"]}):
        second_name.job.defer()
    assert len(queued()) == 1


def test_the_first_call_of_a_task_outside_of_the_apps_is_warned_of(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    module = write("@task\ndef job(): ...\n")
    with override_settings(CLOUDTASK={}):
        module.job.defer()
        module.job.defer()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"Task {module.__name__}.job lies outside" in record.getMessage()
    assert "CLOUDTASK['TRUSTED_MODULES']" in record.getMessage()


def test_a_task_of_an_app_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    registry._findable.discard(note.path)
    note.defer()
    assert caplog.records == []
