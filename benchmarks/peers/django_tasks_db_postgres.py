"""The database worker of django-tasks, on PostgreSQL."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from benchmarks.project import DJANGO_TASKS
from benchmarks.site.work import work

TITLE = "django-tasks-db on PostgreSQL"
PACKAGES = ("django-tasks-db", "django-tasks")
PROMISE = (
    "A call in a transaction is committed with it. A crash of the worker leaves it"
    " marked as running. A worker without calls looks for new ones once a second."
)
KEEPS = False
IN_TRANSACTION = True

task: Any = import_module(DJANGO_TASKS).task


@task()
def run(number: int, milliseconds: int = 0) -> None:
    work(number, milliseconds)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.enqueue(number, milliseconds)


def prepare() -> None:
    from django_tasks_db.models import DBTaskResult

    DBTaskResult.objects.all().delete()


def workers() -> list[list[str]]:
    command = [sys.executable, "-m", "django", "db_worker", "--no-startup-delay"]
    return [[*command, "--no-reload"]] * 2
