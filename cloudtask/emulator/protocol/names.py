"""Names: of resources (projects/P/locations/L/queues/Q/tasks/T), and of hosts.

The proto comments on `Queue.name` and `Task.name` give the alphabets and lengths.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from cloudtask.emulator.protocol import errors

_LOCATION = r"projects/(?P<project>[A-Za-z0-9:.\-]+)/locations/(?P<location>[\w\-]+)"
_QUEUE = rf"{_LOCATION}/queues/(?P<queue>[A-Za-z0-9\-]{{1,100}})"
_LOCATION_NAME = re.compile(_LOCATION, re.ASCII)
_QUEUE_NAME = re.compile(_QUEUE, re.ASCII)
_TASK_NAME = re.compile(rf"(?P<parent>{_QUEUE})/tasks/(?P<task>[^/]*)", re.ASCII)
_TASK_ID = re.compile(r"[A-Za-z0-9_\-]{1,500}")


@dataclass(frozen=True, slots=True)
class QueueName:
    """The parts of a queue's name."""

    project: str
    location: str
    queue: str

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.location}"

    def __str__(self) -> str:
        return f"{self.parent}/queues/{self.queue}"


def parse_queue_name(name: str) -> QueueName:
    """The parts of `name`; `ApiError` INVALID_ARGUMENT when it is not a queue's."""
    match = _QUEUE_NAME.fullmatch(name)
    if match is None:
        raise errors.bad_queue_name()
    return QueueName(match["project"], match["location"], match["queue"])


def is_location(name: str) -> bool:
    return _LOCATION_NAME.fullmatch(name) is not None


def parse_location(name: str) -> tuple[str, str]:
    """(project, location) of "projects/P/locations/L"; else INVALID_ARGUMENT."""
    match = _LOCATION_NAME.fullmatch(name)
    if match is None:
        raise errors.invalid("Invalid resource field value in the request.")
    return match["project"], match["location"]


def split_task_name(name: str) -> tuple[str, str]:
    """(queue name, task id) of a task's full name; the id is not yet checked."""
    match = _TASK_NAME.fullmatch(name)
    if match is None:
        raise errors.bad_task_name()
    return match["parent"], match["task"]


def check_task_id(task_id: str) -> str:
    """The id itself; `ApiError` INVALID_ARGUMENT when the service would refuse it."""
    if _TASK_ID.fullmatch(task_id) is None:
        raise errors.bad_task_id(task_id)
    return task_id


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
