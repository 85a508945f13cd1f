"""gunicorn and an emulator as processes, for runs whose workers are killed for real."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from django.db import connection, connections
from django.test import override_settings

from cloudtask.emulator import Emulator
from tests.acceptance.processes import running
from tests.acceptance.site import listening
from tests.durability.database import committing
from tests.iteration.models import Effect, Thing
from tests.support.waiting import wait_until

QUEUE = "projects/p/locations/l/queues/default"


@dataclass
class Server:
    """A gunicorn whose workers can be killed, and the page that it serves."""

    master: int
    url: str
    log: Path
    killed: list[int] = field(default_factory=list)

    @property
    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.master}/task/{self.master}/children")
        return [int(pid) for pid in path.read_text().split()]

    def answers(self) -> bool:
        """Whether a page was answered: a worker may be killed while it does."""
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{self.url}/admin/login/", timeout=60) as answer,
        ):
            return bool(answer.read())
        return False

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # gunicorn may have ended it itself
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    @contextmanager
    def killing(self, every: float, seed: int) -> Iterator[None]:
        """Kill a random worker every so many seconds during the block."""
        choice, over = random.Random(seed), Event()

        def kill() -> None:
            while not over.wait(every):
                if workers := self.workers:
                    self.kill(choice.choice(workers))

        thread = Thread(target=kill)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def visited(self) -> Iterator[list[float]]:
        """The seconds that each page took that a visitor asked for during the block."""
        took: list[float] = []
        over = Event()

        def visit() -> None:
            while not over.wait(0.2):
                before = time.monotonic()
                if self.answers():
                    took.append(time.monotonic() - before)

        thread = Thread(target=visit)
        thread.start()
        try:
            yield took
        finally:
            over.set()
            thread.join()


def settings_for(port: int, **more: Any) -> dict[str, Any]:
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": f"http://127.0.0.1:{port}",
            "VERIFY": False,
        },
        "TRANSPORT": {"BACKEND": "cloudtask.transports.cloud.CloudTransport"},
        **more,
    }


@contextmanager
def served(
    folder: Path, monkeypatch: Any, *arguments: str, **more: Any
) -> Iterator[Server]:
    """gunicorn with these arguments, over a database in which this process commits.

    `more` are settings of CLOUDTASK. Rows of Thing and Effect are deleted at the end.
    """
    with (
        committing(folder),
        _emptied(),
        listening() as sock,
        Emulator(queues=(QUEUE,), rate_limits=False) as emulator,
    ):
        port = sock.getsockname()[1]
        settings = settings_for(port, **more)
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
        environ = {
            "DJANGO_SETTINGS_MODULE": "tests.iteration.served",
            "KILL_DATABASE": str(connection.settings_dict["NAME"]),
            "KILL_CLOUDTASK": json.dumps(settings),
            "CLOUD_TASKS_EMULATOR_HOST": emulator.address,
        }
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket"]
        command += ["django.core.wsgi:get_wsgi_application()"]
        command += [f"--bind=fd://{sock.fileno()}", *arguments]
        log = folder / "gunicorn.log"
        with (
            override_settings(CLOUDTASK=settings),
            running(command, log, environ=environ, pass_fds=[sock.fileno()]) as process,
        ):
            server = Server(process.pid, f"http://127.0.0.1:{port}", log)
            wait_until(lambda: server.workers, "workers", lambda: log.read_text())
            yield server
    connections["default"].close()


@contextmanager
def _emptied() -> Iterator[None]:
    """Delete the rows that the block has committed."""
    try:
        yield
    finally:
        Effect.objects.all().delete()
        Thing.objects.all().delete()


def things(rows: int) -> None:
    Thing.objects.bulk_create((Thing(id=n) for n in range(rows)), batch_size=5000)


def effects() -> tuple[int, int, int]:
    """The number of effects of rows, of rows that have one, and of finalize."""
    of_rows = Effect.objects.exclude(key="finalize")
    return (
        of_rows.count(),
        of_rows.values("key").distinct().count(),
        Effect.objects.filter(key="finalize").count(),
    )
