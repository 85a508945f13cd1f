"""Measures the import in a process that has already loaded Django."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict

from benchmarks.harness import OURS, Effort
from benchmarks.project import DJANGO_TASKS
from benchmarks.results import Figure, Outcome, Verdict

DJANGO = """
import resource, time
import django.core.handlers.wsgi, django.core.mail, django.db.models, django.urls
import django.views.decorators.csrf
from django.conf import settings
settings.configure(SECRET_KEY="x")
django.setup()
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = memory()
started = time.perf_counter()
{statement}
took = time.perf_counter() - started
print(took, (memory() - before) / 1000)
"""
PEERS = {
    "Celery": "from celery import shared_task",
    "Dramatiq": "from dramatiq import actor",
    "Huey": "from huey import MemoryHuey",
    "django.tasks": f"from {DJANGO_TASKS} import task",
}


TIME, MEMORY = "time", "memory"
UNITS = {TIME: "ms", MEMORY: "MB"}
ABOUT = (
    "Each import runs in a new process in which Django is set up. Memory is what the"
    " import adds to the process."
)


def outcome(effort: Effort) -> Outcome:
    cases = {
        "import cloudtask": "import cloudtask",
        OURS: "import cloudtask; from cloudtask import task",
        **PEERS,
    }
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    order = random.Random(0)
    for statement in cases.values():
        _imported(statement)  # writes what Python compiles
    for _ in range(effort.repeats):
        for case in order.sample(list(cases), len(cases)):
            seconds, kilobytes = _imported(cases[case])
            samples[TIME, case].append(seconds * 1e3)
            samples[MEMORY, case].append(kilobytes / 1e3)
    found = Outcome(
        name="imports",
        title="Import in a new process that has loaded Django",
        baseline=OURS,
        about=ABOUT,
        by_best=True,
        charts=(TIME, MEMORY),
        figures=[
            Figure(case=case, measure=measure, unit=UNITS[measure], samples=some)
            for (measure, case), some in samples.items()
        ],
    )
    ours = found.figure(OURS, TIME)
    assert ours is not None
    what = "import cloudtask; from cloudtask import task"
    reason = "wrapt takes half of it."
    found.verdicts = [
        Verdict(what=what, figure=ours.best, limit=15, unit=" ms", reason=reason)
    ]
    return found


def _imported(statement: str) -> tuple[float, float]:
    """Seconds, and kilobytes of memory."""
    ended = subprocess.run(
        [sys.executable, "-c", DJANGO.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, kilobytes = ended.stdout.split()
    return float(seconds), float(kilobytes)
