"""Mistakes of other backends for `django.tasks`, with a test for each.

The numbers in the names of tests are these:

1. The check is never imported.
2. Functions in class bodies are accepted.
3. `using()` loses options, because the class of tasks has slots.
4. Wrong numbers of arguments are accepted.
5. The traceback is lost.
6. Each thread has a client of its own.
7. Values that JSON can't write are accepted or changed.
8. The names of Django and of its backport are mixed up.
9. An id contains readable data.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import django
import pytest
from django.conf import settings

from cloudtask.backend import CloudTask, library
from cloudtask.backend.library import InvalidTask, task, task_backends
from cloudtask.testing import queued, run_queued
from cloudtask.transports import transport
from tests.backend import tasks
from tests.testapp.tasks import calls

ROOT = Path(__file__).resolve().parents[2]


def check(folder, **settings):
    """`manage.py check` with these settings over those of the tests."""
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    code = "\n".join(["from tests.settings import *", *lines])
    (folder / "changed_settings.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings", "changed_settings"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


BACKEND = "cloudtask.backend.CloudTasksBackend"
WRONG = {"default": {"BACKEND": BACKEND, "OPTIONS": {"max_attempt": 3}}}


def test_1_manage_py_check_sees_the_backend_though_no_module_imports_it(tmp_path):
    checked = check(tmp_path, TASKS=WRONG)
    assert checked.returncode == 1
    assert "cloudtask.E101" in checked.stderr


def test_1_it_says_so_too_when_the_app_is_not_installed(tmp_path):
    installed = ["tests.backend.early"]
    if library.Task.__module__.startswith("django_tasks"):
        installed.append("django_tasks")
    checked = check(
        tmp_path,
        INSTALLED_APPS=installed,
        MIDDLEWARE=[],
        ROOT_URLCONF="tests.backend.urls",
    )
    assert "cloudtask.E103" in checked.stderr


def test_1_a_task_may_be_declared_while_models_are_being_loaded(tmp_path):
    app = "tests.backend.early"
    checked = check(tmp_path, INSTALLED_APPS=[app, *settings.INSTALLED_APPS])
    assert checked.returncode == 0, checked.stderr


def test_2_a_function_in_a_class_body_is_refused_when_it_is_declared():
    with pytest.raises(InvalidTask, match="module level"):
        task(tasks.Holder.inner)


def test_3_using_keeps_what_django_knows_and_what_we_know_apart():
    job = tasks.note.using(queue_name="mail").using(max_attempts=2, priority=0)
    assert isinstance(job, CloudTask)
    assert (job.queue_name, job.max_attempts, job.func) == ("mail", 2, tasks.note.func)
    assert replace(job, queue_name="default").max_attempts == 2


def test_3_the_class_of_tasks_has_slots_as_django_s_has():
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(tasks.note, "unheard_of", 1)


def test_4_a_call_with_too_few_arguments_is_refused_when_it_is_enqueued():
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        tasks.add.enqueue()
    assert queued() == []


def test_5_the_log_of_a_failure_has_its_traceback(db, caplog):
    caplog.set_level(logging.ERROR)
    tasks.fail_until.using(max_attempts=1).enqueue(99)
    run_queued(errors="retry")
    logged = [
        record for record in caplog.records if record.name in LOGGERS_OF_THE_LIBRARY
    ]
    assert [record.exc_info[0] for record in logged] == [ValueError]


LOGGERS_OF_THE_LIBRARY = ("django.tasks", "django_tasks")


def test_6_threads_have_a_backend_each_and_one_transport_together():
    def used(_):
        tasks.note.enqueue()
        return id(transport())

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(used, range(8)))) == 1
    assert len(queued()) == 8


def test_7_integer_keys_travel_as_integers():
    tasks.note.enqueue({1: {2: 3}})
    run_queued()
    assert calls[0][0] == ({1: {2: 3}},)


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 1, tzinfo=UTC), uuid4(), Decimal(1)],
    ids=lambda value: type(value).__name__,
)
def test_7_what_json_can_not_write_is_refused_when_it_is_enqueued(value):
    with pytest.raises(TypeError):
        tasks.note.enqueue(value)


def test_7_integer_keys_come_back_in_a_result(db):
    result = tasks.keep.enqueue({1: [float("inf")]})
    run_queued()
    result.refresh()
    assert result.return_value == {1: [float("inf")]}


def test_8_one_file_serves_core_and_backport_with_the_names_of_either():
    names = {kind.__name__ for kind in (library.InvalidTask, library.Task)}
    module = library.Task.__module__.partition(".")[0]
    assert (module, names) in [
        ("django", {"InvalidTask", "Task"}),
        ("django_tasks", {"InvalidTaskError", "Task"}),
    ]


def test_8_the_library_in_use_is_the_one_whose_handler_reads_the_setting():
    assert isinstance(tasks.note.get_backend(), library.BaseTaskBackend)
    assert set(task_backends.settings) >= {"default", "kept", "urgent"}


RENAMED = """
import django_tasks.exceptions as errors
for name in ("InvalidTask", "InvalidTaskBackend"):  # as after django-tasks 0.12
    setattr(errors, name, getattr(errors, name + "Error"))
del errors.InvalidTaskError
import django
django.setup()
from cloudtask.backend import library
assert library.InvalidTask is errors.InvalidTask
"""


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="uses Django's own library")
def test_8_the_names_of_the_next_release_of_the_backport_are_known():
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", RENAMED], env=environ, cwd=ROOT, check=True)


def test_9_an_id_has_nothing_to_read_in_it():
    one, two = tasks.note.enqueue().id, tasks.note.enqueue().id
    assert one.isalnum()
    assert len(one) == len(two) <= 64
    assert one[:8] != two[:8]
