"""Measures the import in a process that has already loaded Django."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import OURS, Budget, Case, Effort, Scenario
from benchmarks.project import DJANGO_TASKS

DJANGO = """
import time
import django.core.handlers.wsgi, django.core.mail, django.db.models, django.urls
import django.views.decorators.csrf
from django.conf import settings
settings.configure(SECRET_KEY="x")
django.setup()
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
"""
PEERS = {
    "Celery": "from celery import shared_task",
    "Dramatiq": "from dramatiq import actor",
    "Huey": "from huey import MemoryHuey",
    "django.tasks": f"from {DJANGO_TASKS} import task",
}


def scenario(effort: Effort) -> Scenario:
    return Scenario(
        title="Import in a new process that has loaded Django",
        cases=[
            _case("import cloudtask", "import cloudtask"),
            _case(OURS, "import cloudtask; from cloudtask import task"),
            *(_case(name, statement) for name, statement in PEERS.items()),
        ],
        budgets=[
            Budget(
                "import cloudtask; from cloudtask import task",
                lambda results: results[OURS].best * 1e3,
                15,
                " ms",
            )
        ],
        unit="ms",
        scale=1e3,
    )


def _case(name: str, statement: str) -> Case:
    program = DJANGO.format(statement=statement)

    def run() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout

    return Case(name, run, 0)
