"""cloudtask with its emulator, and gunicorn with a thread for the calls of a worker.

Such workers keep connections, as the tutorials of Cloud Run and App Engine do.
"""

from __future__ import annotations

from benchmarks.peers.cloudtask_emulator import (
    IN_TRANSACTION,
    KEEPS,
    PACKAGES,
    PORTS,
    emulator,
    enqueue,
    enqueue_many,
    prepare,
    run,
    site,
)

__all__ = [
    "IN_TRANSACTION",
    "KEEPS",
    "PACKAGES",
    "PORTS",
    "enqueue",
    "enqueue_many",
    "prepare",
    "run",
    "workers",
]

TITLE = "cloudtask, its emulator, gthread"
PROMISE = "As above. gunicorn keeps connections here, as with `--threads`."


def workers() -> list[list[str]]:
    return [emulator(), [*site(), "--worker-class=gthread", "--threads=1"]]
