"""gunicorn workers are killed in the middle of 100,000 rows, for real."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, connections
from django.test import override_settings

from cloudtask import conf
from cloudtask.emulator import Emulator
from cloudtask.iteration import RunState
from cloudtask.stores import store
from tests.acceptance.processes import running
from tests.acceptance.site import listening
from tests.durability.database import committing
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.support.waiting import wait_until

ROWS = 100_000
WORKERS, SHARDS = 3, 4
QUEUE = "projects/p/locations/l/queues/default"


def cloudtask_settings(port: int) -> dict[str, object]:
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "LEASE": 3,
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": f"http://127.0.0.1:{port}",
            "VERIFY": False,
        },
        "TRANSPORT": {"BACKEND": "cloudtask.transports.cloud.CloudTransport"},
    }


@contextmanager
def served(settings: dict[str, object], sock, emulator, folder: Path) -> Iterator[int]:
    """The pid of a gunicorn master."""
    environ = {
        "DJANGO_SETTINGS_MODULE": "tests.iteration.served",
        "KILL_DATABASE": str(connection.settings_dict["NAME"]),
        "KILL_CLOUDTASK": json.dumps(settings),
        "CLOUD_TASKS_EMULATOR_HOST": emulator.address,
    }
    command = [sys.executable, "-m", "gunicorn"]
    command += ["django.core.wsgi:get_wsgi_application()"]
    command += [f"--bind=fd://{sock.fileno()}", f"--workers={WORKERS}"]
    command += ["--no-control-socket", "--timeout=600"]
    log = folder / "gunicorn.log"
    with running(command, log, environ=environ, pass_fds=[sock.fileno()]) as process:
        yield process.pid


@contextmanager
def emptied() -> Iterator[None]:
    """Delete the rows that the block has committed."""
    try:
        yield
    finally:
        Effect.objects.all().delete()
        Thing.objects.all().delete()


def workers_of(master: int) -> list[int]:
    path = Path(f"/proc/{master}/task/{master}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.acceptance
@pytest.mark.django_db(databases=["default", "other"])
def test_each_row_takes_effect_once_though_workers_are_killed(tmp_path, monkeypatch):
    if connection.vendor != "postgresql" or not Path("/proc/self/task").exists():
        pytest.skip("it needs PostgreSQL and Linux")
    with (
        committing(tmp_path),
        emptied(),
        listening() as sock,
        Emulator(queues=(QUEUE,), rate_limits=False) as emulator,
    ):
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
        settings = cloudtask_settings(sock.getsockname()[1])
        Thing.objects.bulk_create((Thing(id=n) for n in range(ROWS)), batch_size=5000)
        with (
            override_settings(CLOUDTASK=settings),
            served(settings, sock, emulator, tmp_path) as master,
        ):
            assert conf.settings().lease.total_seconds() == 3
            run = tasks.mark.iterate(
                Thing.objects.all(),
                finalize=tasks.mark_finalized,
                shards=SHARDS,
                atomic="page",
                batch_size=50,
                keep=True,
            )
            killed = []
            for rows in (ROWS // 10, ROWS // 3):
                wait_until(lambda rows=rows: Effect.objects.count() > rows, "rows")
                for pid in workers_of(master):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            at_last_kill = Effect.objects.count()
            wait_until(lambda: run.refresh().state is RunState.FINISHED, "the end")

        done = Effect.objects.exclude(key="finalize")
        assert done.count() == ROWS
        assert done.values("key").distinct().count() == ROWS
        assert Effect.objects.filter(key="finalize").count() == 1
        assert run.report().done == ROWS
        assert at_last_kill < ROWS, "they were killed too late"
        fences = sum(shard.fence for shard in store().load_shards(run.id))
    connections["default"].close()
    print(
        f"\n{len(killed)} workers killed at {at_last_kill:,} of {ROWS:,} rows; "
        f"{fences} leases; each row's effect once, finalize once"
    )
