"""Applies a plan: creates and changes queues, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloudtask.queues.actual import (
    ActualQueue,
    QueuesUnknown,
    actual,
    forget_cached,
    parent,
    rpc,
)
from cloudtask.queues.plan import CREATE, Step
from cloudtask.transports.cloud.requests import queue_path

PAUSE = 1.0  # seconds between two writes, as the service asks for
APPEARS = 60.0  # seconds in which a queue must appear that was created


class QueueChanged(QueuesUnknown):
    """A queue is not any more what the plan saw."""


def apply(step: Step, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Create or change one queue.

    Raises QueueChanged, and nothing is written, if it has changed since the plan was
    made; QueuesUnknown if the service refuses.
    """
    if not step.is_write:
        return
    try:
        if step.action == CREATE:
            _create(step, sleep)
        else:
            _change(step)
    finally:
        forget_cached()
    sleep(PAUSE)


def _create(step: Step, sleep: Callable[[float], None]) -> None:
    # update_queue would create it too, but hide that another one was faster.
    rpc("create_queue", lambda: {"parent": parent(), "queue": _message(step)})
    for _ in range(int(APPEARS)):
        if read(step.name) is not None:
            return
        sleep(1.0)
    raise QueuesUnknown(f"Queue {step.name!r} was created and has not appeared.")


def _change(step: Step) -> None:
    if read(step.name) != step.seen:
        raise QueueChanged(
            f"Queue {step.name!r} was changed since the plan was made: plan again."
        )
    # Only the leaves that differ: an empty mask would replace the whole queue.
    mask = {"paths": [one.path for one in step.differences]}
    queue = _message(step)
    rpc("update_queue", lambda: {"queue": queue, "update_mask": mask})


def read(name: str) -> ActualQueue | None:
    """The queue as it is now; None if there is none."""
    try:
        found = rpc("get_queue", lambda: {"name": queue_path(name)})
    except QueuesUnknown as error:
        if error.is_missing:
            return None
        raise
    return actual(found)


def _message(step: Step) -> Any:
    from google.cloud import tasks_v2

    values: dict[str, Any] = {"name": queue_path(step.name)}
    for one in step.differences:
        head, _, leaf = one.path.partition(".")
        values.setdefault(head, {})[leaf] = one.after
    return tasks_v2.Queue(values)
