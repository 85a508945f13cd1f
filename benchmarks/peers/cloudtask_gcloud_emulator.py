"""cloudtask with gcloud-tasks-emulator of PyPI in place of its own."""

from __future__ import annotations

import os

from benchmarks.emulator import peer_python
from benchmarks.peers.cloudtask_emulator import (
    QUEUE,
    enqueue,
    prepare,
    run,
    site,
)

__all__ = ["enqueue", "prepare", "run", "workers"]

TITLE = "cloudtask, gcloud-tasks-emulator"
PACKAGES = ("gunicorn",)
PROMISE = "As with our emulator. This one signs no tokens, so none is verified."
KEEPS = True
PORTS = ("EMULATOR", "SITE")
IN_TRANSACTION = True


def workers() -> list[list[str]]:
    command = [str(peer_python()), "-m", "gcloud_tasks_emulator", "start", "-q"]
    command += [f"--port={os.environ['BENCH_EMULATOR_PORT']}"]
    command += ["--target-host=127.0.0.1"]
    command += [f"--target-port={os.environ['BENCH_SITE_PORT']}"]
    return [[*command, f"--default-queue={QUEUE}"], site()]
