"""Answers and headers that were recorded from the real Cloud Tasks.

Source: the maintainers of https://github.com/aertje/cloud-tasks-emulator recorded them
in July 2026 with Google's Go client, in their folder conformance/golden:

* `REFUSALS`: realcloud.json, 23 cases. One is not a refusal: the service accepts the
  URL http://example.com/%zz.
* `STORED`: headers.json, four cases, each seen in answers of CreateTask and GetTask.
* `DISPATCHES`: dispatch.json, four cases. In the two named timeout the first attempt
  had no response. The receiver's 302 had no target to follow, so nothing shows whether
  the service follows redirects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Act = Callable[[Any, str], object]
TIMEOUT = 25.0  # seconds; the service takes no more than 30
NO_QUEUE = (
    "Queue does not exist. If you just created the queue, wait at least a minute for "
    "the queue to initialize."
)


@dataclass(frozen=True)
class Refusal:
    """A call that the service refuses; `prepare` and `call` take a queue's name."""

    name: str
    call: Act
    code: str
    message: str
    details: tuple[str, ...] = ()
    prepare: Act = lambda client, queue: None


@dataclass(frozen=True)
class Stored:
    """The headers of a task as sent with CreateTask, and as shown from then on."""

    name: str
    kind: str
    sent: dict[str, str]
    shown: dict[str, str]


@dataclass(frozen=True)
class Dispatched:
    """The responses to the attempts of a task, and the headers of each attempt.

    Names of headers are without their prefix and in lower case. A status of None is no
    response by the deadline.
    """

    agent: str
    statuses: tuple[int | None, ...]
    attempts: tuple[dict[str, str], ...]


def _parent(queue: str) -> str:
    return queue.partition("/queues/")[0]


def _create_queue(client: Any, queue: str) -> object:
    return client.create_queue(
        parent=_parent(queue), queue={"name": queue}, timeout=TIMEOUT
    )


def _delete_queue(client: Any, queue: str) -> object:
    _create_queue(client, queue)
    return client.delete_queue(name=queue, timeout=TIMEOUT)


def _create_paused(client: Any, queue: str) -> object:
    _create_queue(client, queue)
    return client.pause_queue(name=queue, timeout=TIMEOUT)


def _task(client: Any, queue: str, name: str = "", url: str = "https://h/") -> object:
    task = {"name": name or f"{queue}/tasks/t", "http_request": {"url": url}}
    return client.create_task(parent=queue, task=task, timeout=TIMEOUT)


def _create_task(client: Any, queue: str) -> object:
    _create_paused(client, queue)
    return _task(client, queue)


def _delete_task(client: Any, queue: str) -> object:
    _create_task(client, queue)
    return client.delete_task(name=f"{queue}/tasks/t", timeout=TIMEOUT)


def _on_queue(call: str) -> Act:
    return lambda client, queue: getattr(client, call)(name=queue, timeout=TIMEOUT)


def _on_task(call: str) -> Act:
    return lambda client, queue: getattr(client, call)(
        name=f"{queue}/tasks/t", timeout=TIMEOUT
    )


def _with_url(url: str) -> Act:
    return lambda client, queue: _task(client, queue, url=url)


def _bad_queue_name(client: Any, queue: str) -> object:
    bad = {"name": "not-a-valid-queue-name"}
    return client.create_queue(parent=_parent(queue), queue=bad, timeout=TIMEOUT)


def _bad_parent(client: Any, queue: str) -> object:
    return client.create_queue(
        parent="not-a-valid-parent", queue={"name": queue}, timeout=TIMEOUT
    )


REFUSALS = [
    Refusal(
        "queue/create/already-exists",
        _create_queue,
        "ALREADY_EXISTS",
        "Queue already exists",
        prepare=_create_queue,
    ),
    Refusal(
        "queue/create/invalid-name",
        _bad_queue_name,
        "INVALID_ARGUMENT",
        'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/'
        'queues/<QUEUE_ID>".',
        details=("Help",),
    ),
    Refusal(
        "queue/create/invalid-parent",
        _bad_parent,
        "PERMISSION_DENIED",
        "Permission denied on resource project not-a-valid-parent.",
        details=("ErrorInfo", "LocalizedMessage", "Help"),
    ),
    Refusal(
        "queue/create/recently-deleted",
        _create_queue,
        "FAILED_PRECONDITION",
        "The queue cannot be created because a queue with this name existed too "
        "recently.",
        prepare=_delete_queue,
    ),
    Refusal(
        "queue/delete/not-found",
        _on_queue("delete_queue"),
        "NOT_FOUND",
        "Requested entity was not found.",
    ),
    Refusal("queue/get/not-found", _on_queue("get_queue"), "NOT_FOUND", NO_QUEUE),
    Refusal(
        "queue/get/recently-deleted",
        _on_queue("get_queue"),
        "NOT_FOUND",
        NO_QUEUE,
        prepare=_delete_queue,
    ),
    Refusal("queue/pause/not-found", _on_queue("pause_queue"), "NOT_FOUND", NO_QUEUE),
    Refusal("queue/purge/not-found", _on_queue("purge_queue"), "NOT_FOUND", NO_QUEUE),
    Refusal("queue/resume/not-found", _on_queue("resume_queue"), "NOT_FOUND", NO_QUEUE),
    Refusal(
        "task/create/already-exists",
        _task,
        "ALREADY_EXISTS",
        "Requested entity already exists",
        prepare=_create_task,
    ),
    Refusal(
        "task/create/invalid-name",
        lambda client, queue: _task(client, queue, f"{queue}/tasks/not a valid id"),
        "INVALID_ARGUMENT",
        'Task ID "not a valid id" can contain only letters ([A-Za-z]), numbers '
        "([0-9]), hyphens (-), or underscores (_). Task ID must between 1 and 500 "
        "characters.",
        details=("Help",),
        prepare=_create_queue,
    ),
    Refusal(
        "task/create/invalid-url-empty",
        _with_url(""),
        "INVALID_ARGUMENT",
        "HttpRequest.url is required.",
        prepare=_create_queue,
    ),
    Refusal(
        "task/create/invalid-url-no-scheme",
        _with_url("example.com/path"),
        "INVALID_ARGUMENT",
        "HttpTarget.url must start with 'http://' or 'https://'.",
        prepare=_create_queue,
    ),
    Refusal(
        "task/create/invalid-url-non-http-scheme",
        _with_url("ftp://example.com/"),
        "INVALID_ARGUMENT",
        "HttpTarget.url must start with 'http://' or 'https://'.",
        prepare=_create_queue,
    ),
    Refusal(
        "task/create/queue-mismatch",
        lambda client, queue: _task(client, queue, f"{queue}-other/tasks/t"),
        "INVALID_ARGUMENT",
        "The queue name from request ('{queue}') must be the same as the queue name in "
        "the named task ('{queue}-other').",
        prepare=_create_queue,
    ),
    Refusal("task/create/queue-not-found", _task, "NOT_FOUND", NO_QUEUE),
    Refusal(
        "task/create/queue-recently-deleted",
        _task,
        "NOT_FOUND",
        NO_QUEUE,
        prepare=_delete_queue,
    ),
    Refusal(
        "task/delete/not-found",
        _on_task("delete_task"),
        "NOT_FOUND",
        "Requested entity was not found.",
        prepare=_create_queue,
    ),
    Refusal(
        "task/get/not-found",
        _on_task("get_task"),
        "NOT_FOUND",
        "Requested entity was not found.",
        prepare=_create_queue,
    ),
    Refusal(
        "task/get/recently-deleted",
        _on_task("get_task"),
        "NOT_FOUND",
        "The task no longer exists, though a task with this name existed recently. The "
        "task either successfully completed or was deleted.",
        prepare=_delete_task,
    ),
    Refusal(
        "task/run/not-found",
        _on_task("run_task"),
        "NOT_FOUND",
        "Requested entity was not found.",
        prepare=_create_queue,
    ),
]

HTTP_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"
_SENT = {"X-Mixed-Case": "preserve-me"}
_SENT_WITH_TYPE = {**_SENT, "content-type": "application/json"}

STORED = [
    Stored(
        "headers/http",
        "http_request",
        _SENT_WITH_TYPE,
        {**_SENT_WITH_TYPE, "User-Agent": HTTP_AGENT},
    ),
    Stored(
        "headers/http-no-content-type",
        "http_request",
        _SENT,
        {**_SENT, "User-Agent": HTTP_AGENT},
    ),
    Stored(
        "headers/appengine",
        "app_engine_http_request",
        _SENT_WITH_TYPE,
        {**_SENT_WITH_TYPE, "User-Agent": APP_ENGINE_AGENT, "Content-Length": "17"},
    ),
    Stored(
        "headers/appengine-no-content-type",
        "app_engine_http_request",
        _SENT,
        {
            **_SENT,
            "User-Agent": APP_ENGINE_AGENT,
            "Content-Length": "17",
            "Content-Type": "application/octet-stream",
        },
    ),
]


def _attempts(
    executions: str, previous: tuple[str, ...], reason: str
) -> tuple[dict[str, str], ...]:
    attempts = [{"taskretrycount": "0", "taskexecutioncount": executions[0]}]
    attempts += [
        {
            "taskretrycount": str(number),
            "taskexecutioncount": executions[number],
            "taskpreviousresponse": previous[number - 1],
            "taskretryreason": reason,
        }
        for number in range(1, len(executions))
    ]
    return tuple(attempts)


_STATUSES = (503, 404, 429, 500, 302, 200)
_PREVIOUS = ("503", "404", "429", "500", "302")

DISPATCHES = {
    "dispatch/http": Dispatched(
        HTTP_AGENT, _STATUSES, _attempts("001223", _PREVIOUS, "")
    ),
    "dispatch/appengine": Dispatched(
        APP_ENGINE_AGENT, _STATUSES, _attempts("012345", _PREVIOUS, "App Error")
    ),
    "dispatch/http-timeout": Dispatched(
        HTTP_AGENT, (None, 200), _attempts("00", ("504",), "")
    ),
    "dispatch/appengine-timeout": Dispatched(
        APP_ENGINE_AGENT, (None, 200), _attempts("00", ("0",), "Instance Unavailable")
    ),
}
