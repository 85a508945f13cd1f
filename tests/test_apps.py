"""Starting Django: the tasks of every app are imported, and a failure names the app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
SETTINGS = """
SECRET_KEY = "a key for tests only"
INSTALLED_APPS = ["cloudtask", "shop", "thirdparty"]
DATABASES = {databases}
CLOUDTASK = {settings}
"""
TASKS = "from cloudtask import task\n@task\ndef sell(): ...\n"
# What an app with tasks of Celery does where Celery is not installed.
FOREIGN = "from not_installed_queue import shared_task\n"


class Site:
    """A project in a directory, with an app of ours and one of a third party."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings: dict[str, object] = {}
        self.write("shop", TASKS)

    def write(self, app: str, tasks: str) -> None:
        (self.directory / app).mkdir(exist_ok=True)
        (self.directory / app / "__init__.py").touch()
        (self.directory / app / "tasks.py").write_text(tasks)

    def run(
        self, *arguments: str, template: str = SETTINGS
    ) -> subprocess.CompletedProcess[str]:
        text = template.format(settings=self.settings, databases={"default": SQLITE})
        (self.directory / "site_settings.py").write_text(text)
        return subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "site_settings"},
            cwd=self.directory,
            capture_output=True,
            text=True,
        )

    def check(self, template: str = SETTINGS) -> str:
        """What `manage.py check` complains of; empty when Django started."""
        done = self.run("check", template=template)
        return done.stderr if done.returncode else ""


@pytest.fixture
def project(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_an_app_that_lacks_a_module_is_named_with_the_place(project: Site) -> None:
    project.write("thirdparty", FOREIGN)
    problem = project.check().splitlines()[-1]
    assert "The tasks of the app 'thirdparty' can't be imported" in problem
    assert "No module named 'not_installed_queue'" in problem
    assert f"{project.directory / 'thirdparty' / 'tasks.py'}, line 1" in problem
    assert "CLOUDTASK['DISCOVER'] = ['thirdparty']" in problem


@pytest.mark.parametrize(
    ("tasks", "cause"),
    [
        ("import sys; sys.exit('no')", "SystemExit: no"),
        ("def f(:", "SyntaxError: invalid syntax (tasks.py, line 1)"),
        (r"raise ValueError('a\x1b[31mb')", r"ValueError: a\x1b[31mb"),
        (
            "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
            "E: <exception str() failed>",
        ),
    ],
    ids=["exit", "syntax", "control characters", "no text"],
)
def test_any_reason_against_an_apps_tasks_is_named(
    project: Site, tasks: str, cause: str
) -> None:
    project.write("thirdparty", f"{tasks}\n")
    problem = project.check().splitlines()[-1]
    assert "The tasks of the app 'thirdparty' can't be imported" in problem
    assert cause in problem


def test_an_app_whose_tasks_raise_is_named_with_their_traceback(project: Site) -> None:
    project.write("thirdparty", "def begin():\n    1 / 0\nbegin()\n")
    problem = project.check()
    assert "in begin" in problem
    assert "'thirdparty' can't be imported: ZeroDivisionError" in problem


def test_an_app_can_be_left_out(project: Site) -> None:
    project.write("thirdparty", FOREIGN)
    project.settings = {"DISCOVER": ["thirdparty"]}
    assert project.check() == ""
    known = (
        "from cloudtask import registry; print('shop.tasks.sell' in registry.tasks())"
    )
    assert project.run("shell", "--no-imports", "-c", known).stdout.strip() == "True"


def test_a_name_that_is_no_app_is_refused(project: Site) -> None:
    project.write("thirdparty", TASKS)
    project.settings = {"DISCOVER": ["thridparty"]}
    assert "did you mean 'thirdparty'?" in project.check()


def test_other_wrong_settings_are_left_to_the_checks(project: Site) -> None:
    project.write("thirdparty", TASKS)
    project.settings = {"LOCATON": "x"}
    assert "(cloudtask.E001)" in project.check()


def test_a_project_that_has_not_installed_the_app_is_told(project: Site) -> None:
    project.write("thirdparty", TASKS)
    (project.directory / "shop" / "models.py").write_text("import shop.tasks\n")
    problem = project.check(SETTINGS.replace('"cloudtask", ', ""))
    assert "(cloudtask.E010) 'cloudtask' is not in INSTALLED_APPS" in problem


def test_a_call_in_a_transaction_tells_that_the_app_is_not_installed(
    project: Site,
) -> None:
    project.write("thirdparty", TASKS)
    project.settings = {
        "PROJECT": "p",
        "LOCATION": "l",
        "TARGET": {"BACKEND": "cloudtask.targets.AppEngineTarget"},
    }
    call = (
        "from django.db import transaction\n"
        "from shop.tasks import sell\n"
        "with transaction.atomic(): sell.defer()"
    )
    without = SETTINGS.replace('"cloudtask", ', "")
    done = project.run("shell", "-c", call, template=without)

    *_, last = done.stderr.splitlines()
    assert last.startswith(
        "cloudtask.exceptions.ConfigurationError: 'cloudtask' is not"
    )
    assert last.endswith("Add 'cloudtask' to INSTALLED_APPS.")
