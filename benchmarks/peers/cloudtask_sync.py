"""cloudtask with its emulator, and gunicorn's own default: workers without threads.

Such workers close each connection after its request.
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

TITLE = "cloudtask, its emulator, sync workers"
PROMISE = "As above. gunicorn keeps no connections here, as without `--threads`."


def workers() -> list[list[str]]:
    return [emulator(), site("sync")]
