"""The guard against tasks that enqueue one another for ever."""

from __future__ import annotations

from cloudtask.transports.memory import Waiting

SHOWN = 10  # tasks of a chain that a message names


class EndlessTasks(AssertionError):
    """`run_queued` reached its limit: tasks keep enqueueing tasks."""


def endless(entry: Waiting, limit: int) -> EndlessTasks:
    """The error for the call that is one too many."""
    return EndlessTasks(
        f"Tasks enqueued more than {limit:,} calls while they ran, the last by this "
        f"chain: {chain_of(entry)}. If it ends some day, raise limit=."
    )


def chain_of(entry: Waiting) -> str:
    """Who enqueued whom, up to `entry`; a part that repeats is given once."""
    paths: list[str] = []
    link: Waiting | None = entry
    while link is not None:
        paths.append(link.message.task)
        link = link.parent
    paths.reverse()
    length = _period(paths)
    if length is not None:
        return " -> ".join([*paths[-length - 1 :], "..."])
    skipped = ["..."] if len(paths) > SHOWN else []
    return " -> ".join([*skipped, *paths[-SHOWN:]])


def _period(paths: list[str]) -> int | None:
    """The shortest length with which the end of `paths` repeats itself."""
    last = len(paths) - 1
    for length in range(1, len(paths) // 2 + 1):
        if all(paths[last - n] == paths[last - n - length] for n in range(length)):
            return length
    return None
