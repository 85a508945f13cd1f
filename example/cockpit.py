"""The end of the demo: an account for the dashboard, and something to look at in it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from progress import Failed, Progress
from servers import Server

FOLDER = Path(__file__).resolve().parent
USER = "demo"
POSTCARDS = 3


def show(url: str, running: list[Server]) -> None:
    """Let some tasks fail, ask the doctor, and print address and account."""
    _let_tasks_fail(running)
    _ask_the_doctor()
    password = _account()
    is_kept = can_wait()
    place = url if is_kept else "http://127.0.0.1:8000"
    print("\nThe dashboard")
    print(f"  {place}/admin/cloudtask/overview/    account: {USER}  {password}")
    print(f"  There are a finished iteration and {POSTCARDS} failed tasks to look at.")
    if not is_kept:
        print("  Serve it again: cd example && python manage.py runserver 8000")
    out = Path(os.environ["ATLAS_OUT"])
    print("\nOpen and read next")
    for what, where in (
        ("the map", out / "atlas.png"),
        ("the tasks, 150 lines", FOLDER / "cities/tasks.py"),
        ("the settings", FOLDER / "atlas/settings.py"),
        ("each request of Cloud Tasks", out / "emulator.log"),
        ("your own first task", FOLDER.parent / "docs/tutorial/first-task.md"),
        ("what is promised", FOLDER.parent / "docs/explanation/guarantees.md"),
    ):
        print(f"  {what:<28} {_short(where)}")


def _short(path: Path) -> Path:
    """The path from the root of the repository, if it lies there."""
    root = FOLDER.parent
    return path.relative_to(root) if path.is_relative_to(root) else path


def can_wait() -> bool:
    """Whether a person sits there, who can end the demo."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI")


def _let_tasks_fail(running: list[Server]) -> None:
    from cities.models import City
    from cities.tasks import send_postcard

    from cloudtask import call
    from cloudtask.stores import store

    largest = City.objects.order_by("-population")[:POSTCARDS]
    send_postcard.defer_many([call(city.pk, stamp="EUR 1.20") for city in largest])
    progress = Progress(POSTCARDS, running)
    progress.wait_for(
        lambda: store().count_failed() == POSTCARDS, "tasks that fail for good"
    )


def _ask_the_doctor() -> None:
    """Ask whether a task comes back, as after a deploy."""
    probes = [f"--only={probe}" for probe in ("tables", "queues", "handler", "send")]
    command = [sys.executable, "manage.py", "cloudtask_doctor", "--send", *probes]
    print("\nmanage.py cloudtask_doctor --send", flush=True)
    if subprocess.run(command, cwd=FOLDER).returncode:
        raise Failed("the doctor found a fault.")


def _account() -> str:
    """Make an account with all rights; returns its password."""
    from django.contrib.auth.models import User

    password = secrets.token_urlsafe(9)
    User.objects.create_superuser(USER, password=password)
    return password
