"""Reads, pauses, resumes, purges and deletes the queues of the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from cloudtask import conf
from cloudtask.clients import code_of
from cloudtask.conf.queues import Queue
from cloudtask.exceptions import CloudTaskError, ConfigurationError
from cloudtask.transports.cloud.client import clients
from cloudtask.transports.cloud.requests import queue_path

T = TypeVar("T")

SECONDS = 3.0  # a call may take: a person waits for the page
KEPT = 10.0  # seconds for which a list is shown again

_REFUSED_CODES = (7, 16)  # of google.rpc.Code: PERMISSION_DENIED, UNAUTHENTICATED

# The right that each call needs, as IAM names it.
_RIGHTS = {
    "list_queues": "cloudtasks.queues.list",
    "get_queue": "cloudtasks.queues.get",
    "create_queue": "cloudtasks.queues.create",
    "update_queue": "cloudtasks.queues.update",
    "delete_queue": "cloudtasks.queues.delete",
    "pause_queue": "cloudtasks.queues.pause",
    "resume_queue": "cloudtasks.queues.resume",
    "purge_queue": "cloudtasks.queues.purge",
    "get_task": "cloudtasks.tasks.get",
    "get_whole_task": "cloudtasks.tasks.get and cloudtasks.tasks.fullView",
    "list_tasks": "cloudtasks.tasks.list",
    "delete_task": "cloudtasks.tasks.delete",
}


# The roles that have them, if it is not the one of administrators.
_ROLES = {
    **dict.fromkeys(
        ("list_queues", "get_queue", "get_task", "list_tasks"),
        "roles/cloudtasks.viewer for reading",
    ),
    "get_whole_task": "roles/cloudtasks.viewer and roles/cloudtasks.enqueuer",
    "delete_task": "roles/cloudtasks.taskDeleter",
}


def _role(call: str) -> str:
    return _ROLES.get(call, "roles/cloudtasks.queueAdmin")


class QueuesUnknown(CloudTaskError):
    """The service does not tell about its queues; the text says why.

    `right` is the name of the right that is missing, if one is; `is_missing` says that
    the thing itself is.
    """

    right = ""
    is_missing = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualQueue:
    """A queue as the service has it. `max_attempts` -1 means without an end."""

    name: str
    state: str
    rate: float
    concurrency: int
    max_attempts: int
    max_retry_duration: timedelta
    min_backoff: timedelta
    max_backoff: timedelta
    doublings: int


def parent() -> str:
    """The full name of the location; raises ConfigurationError if it is not set."""
    return queue_path("x").partition("/queues/")[0]


def list_queues() -> dict[str, ActualQueue]:
    """All queues of the location by name; raises QueuesUnknown."""
    found = rpc("list_queues", lambda: {"parent": parent()})
    with told("list_queues"):
        queues = [actual(one) for one in found]
    return {queue.name: queue for queue in sorted(queues, key=lambda one: one.name)}


_cached: dict[tuple[str, str, str | None], tuple[float, Any]] = {}


def list_cached() -> dict[str, ActualQueue]:
    """As `list_queues`, from a list that is KEPT seconds old at most."""
    return cached("queues", list_queues)


def cached(what: str, read: Callable[[], T]) -> T:
    """What `read` has returned, KEPT seconds ago at most. A QueuesUnknown is kept as
    long: a page must not wait for each."""
    place = what, parent_or_none(), conf.emulator_host()
    at, found = _cached.get(place, (0.0, None))
    if found is None or time.monotonic() - at > KEPT:
        try:
            found = read()
        except QueuesUnknown as error:
            found = error
        _cached[place] = time.monotonic(), found
    if isinstance(found, QueuesUnknown):
        raise found
    kept: T = found
    return kept


def parent_or_none() -> str:
    try:
        return parent()
    except ConfigurationError:
        return ""


def forget_cached() -> None:
    """Have the next `cached` ask the service."""
    _cached.clear()


def pause(name: str) -> None:
    """Stop the sending of a queue, or of all parts of one that is spread. Tasks may
    still be added. Raises QueuesUnknown."""
    _change_whole("pause_queue", name)


def resume(name: str) -> None:
    """Let a queue send again, or all parts of one that is spread; raises
    QueuesUnknown."""
    _change_whole("resume_queue", name)


def purge(name: str) -> None:
    """Delete all tasks of a queue, for good; raises QueuesUnknown."""
    _change("purge_queue", name)


def delete(name: str) -> None:
    """Delete a queue with all its tasks. Its name can't be used for some days. Raises
    QueuesUnknown."""
    _change("delete_queue", name)


def permissions(name: str, asked: Sequence[str]) -> set[str]:
    """Those of the permissions that this process has on a queue; raises
    QueuesUnknown."""
    path = queue_path(declared(name).parts[0])
    request = {"resource": path, "permissions": list(asked)}
    answer = rpc("test_iam_permissions", lambda: {"request": request})
    return set(answer.permissions)


@dataclass(frozen=True, slots=True)
class SeenTask:
    """A task as the service has it: how often it was sent, and the last answer."""

    tries: int
    answer: str
    is_refused: bool


def look_at(queue: str, name: str) -> SeenTask | None:
    """A task of a queue, or of one of its parts; None if there is none. Raises
    QueuesUnknown."""
    found = _found(queue, name)
    return None if found is None else _seen(found)


def _seen(found: Any) -> SeenTask:
    status = found.last_attempt.response_status
    is_refused = status.code in _REFUSED_CODES
    return SeenTask(found.dispatch_count, status.message, is_refused)


def take_back(queue: str, name: str) -> SeenTask | None:
    """Delete a task, and return what the service knew of it; None if it has none.

    Raises QueuesUnknown.
    """
    found = _found(queue, name)
    if found is None:
        return None
    rpc("delete_task", lambda: {"name": found.name})
    return _seen(found)


def _found(queue: str, name: str) -> Any:
    """The task as the service has it.

    It is also looked for in the queue's own name, where tasks from before its spread
    wait.
    """
    chosen = declared(queue)
    likely = chosen.part_for(name)
    for part in dict.fromkeys((likely, *chosen.parts, queue)):
        path = f"{queue_path(part)}/tasks/{name}"
        try:
            return rpc("get_task", partial(dict, name=path))
        except QueuesUnknown as error:
            if not error.is_missing:
                raise
    return None


def declared(name: str) -> Queue:
    """The queue of that name, with its parts."""
    return conf.settings().queues.get(name) or Queue(name=name)


def _change_whole(call: str, name: str) -> None:
    """Change all parts of a queue, whether or not one of them can't be changed.

    Tasks that were enqueued before it was spread wait in a queue of its own name.
    """
    problems = []
    parts = declared(name).parts
    for part in dict.fromkeys((*parts, name)):
        try:
            _change(call, part)
        except QueuesUnknown as error:
            if part in parts or not error.is_missing:
                problems.append(error)
    if problems:
        raise problems[0]


def _change(call: str, name: str) -> None:
    rpc(call, lambda: {"name": queue_path(name)})
    forget_cached()


def rpc(
    call: str,
    arguments: Callable[[], dict[str, Any]],
    *,
    what: str | None = None,
    **options: Any,
) -> Any:
    """The answer of the service to one call; raises QueuesUnknown.

    `what` names the right that the call needs, if `call` does not.
    """
    if conf.transport_options(conf.settings())["BACKEND"] == conf.MEMORY_TRANSPORT:
        raise QueuesUnknown(
            "Tasks stay in the memory of this process: there is no service to ask."
        )
    with told(what or call):
        method = partial(getattr(clients.get(), call), **arguments())
        return method(timeout=SECONDS, retry=None, **options)


@contextmanager
def told(call: str) -> Iterator[None]:
    """Raise QueuesUnknown for the errors of Google's client in the block."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise _unknown(call, error) from error
    except ConfigurationError as error:
        raise QueuesUnknown(str(error)) from error


def _unknown(call: str, error: Exception) -> QueuesUnknown:
    code, text = code_of(error), str(getattr(error, "message", error))
    if code == "PERMISSION_DENIED":
        right = _RIGHTS.get(call, call)
        unknown = QueuesUnknown(
            f"The account of this process lacks the right {right}. Grant it, for "
            f"example with {_role(call)}. ({text})"
        )
        unknown.right = right
        return unknown
    if code == "NOT_FOUND":
        missing = QueuesUnknown(
            f"There is no such queue, or no such location. ({text})"
        )
        missing.is_missing = True
        return missing
    return QueuesUnknown(f"Cloud Tasks gave no answer: {code}: {text}")


def actual(queue: Any) -> ActualQueue:
    """The queue of a message of the service."""
    limits, retries = queue.rate_limits, queue.retry_config
    return ActualQueue(
        name=queue.name.rpartition("/")[2],
        state=queue.state.name,
        rate=limits.max_dispatches_per_second,
        concurrency=limits.max_concurrent_dispatches,
        max_attempts=retries.max_attempts,
        max_retry_duration=retries.max_retry_duration or timedelta(0),
        min_backoff=retries.min_backoff or timedelta(0),
        max_backoff=retries.max_backoff or timedelta(0),
        doublings=retries.max_doublings,
    )
