"""Holds a task: the client's message, and its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cloudtask.emulator.protocol import Message, copy_of, put_time

BASIC, FULL = 1, 2
"""The values of the enum `Task.View`."""

HTTP_NO_RESPONSE = 504
"""The status that an HTTP target is told about an attempt without a response."""


@dataclass(frozen=True, slots=True)
class Response:
    """The target's answer; `status` is None when there was none by the deadline.

    `retry_after` is in seconds; `problem` says in words why there was no response.
    `outcome` is the handler's own word for the result, if it gave one.
    """

    status: int | None
    retry_after: float | None = None
    problem: str = ""
    outcome: str = ""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished or running delivery, as `Task.last_attempt` reports it.

    Times are unix seconds.
    """

    schedule_time: float
    dispatch_time: float
    response_time: float | None = None
    status: int | None = None


@dataclass(slots=True, eq=False)
class Task:
    """The stored form of a task; times are unix seconds.

    `message` holds the client's task with the service's defaults filled in, and never
    changes. `response_count` counts every response, `execution_count` those that were
    not 5xx: an App Engine target is told the first number, an HTTP target the second.
    """

    id: str
    message: Message
    eta: float
    created: float
    dispatch_count: int = 0
    response_count: int = 0
    execution_count: int = 0
    first_dispatch: float | None = None
    last_attempt: Attempt | None = None
    running: int = 0
    ticket: int = 0
    """The heap entry that stands for this task; older entries are void."""

    @property
    def name(self) -> str:
        return str(self.message.name)

    @property
    def is_app_engine(self) -> bool:
        return bool(self.message.HasField("app_engine_http_request"))


class Dispatch(NamedTuple):
    """One attempt under way, with the counts as they were when it began.

    `previous` is the attempt before it, None on the first. `forced` marks RunTask.
    """

    task: Task
    number: int
    schedule_time: float
    dispatch_time: float
    response_count: int
    execution_count: int
    previous: Attempt | None
    forced: bool


def view(task: Task, response_view: int) -> Message:
    """The `google.cloud.tasks.v2.Task` that the API shows; BASIC has no body."""
    shown = copy_of(task.message)
    put_time(shown.schedule_time, task.eta)
    shown.dispatch_count = task.dispatch_count
    shown.response_count = task.response_count
    if task.first_dispatch is not None:
        put_time(shown.first_attempt.dispatch_time, task.first_dispatch)
    if task.last_attempt is not None:
        _show_attempt(shown.last_attempt, task.last_attempt)
    if response_view == FULL:
        shown.view = FULL
        return shown
    return _without_body(shown)


def _without_body(shown: Message) -> Message:
    request = getattr(shown, shown.WhichOneof("message_type"))
    request.ClearField("body")
    shown.view = BASIC
    return shown


def _show_attempt(field: Message, attempt: Attempt) -> None:
    put_time(field.schedule_time, attempt.schedule_time)
    put_time(field.dispatch_time, attempt.dispatch_time)
    if attempt.response_time is None:
        return
    put_time(field.response_time, attempt.response_time)
    code, message = _rpc_status(attempt.status)
    field.response_status.code = code
    field.response_status.message = message


# Of google.rpc.Code, as its proto comments map HTTP statuses.
_RPC_CODES = {
    400: ("INVALID_ARGUMENT", 3),
    401: ("UNAUTHENTICATED", 16),
    403: ("PERMISSION_DENIED", 7),
    404: ("NOT_FOUND", 5),
    409: ("ABORTED", 10),
    416: ("OUT_OF_RANGE", 11),
    429: ("RESOURCE_EXHAUSTED", 8),
    499: ("CANCELLED", 1),
    501: ("UNIMPLEMENTED", 12),
    503: ("UNAVAILABLE", 14),
    504: ("DEADLINE_EXCEEDED", 4),
}


def _rpc_status(status: int | None) -> tuple[int, str]:
    """(google.rpc code, message) with which the API reports an HTTP status."""
    if status is not None and 200 <= status < 300:
        return 0, ""
    shown = HTTP_NO_RESPONSE if status is None else status
    name, code = _RPC_CODES.get(shown) or _by_family(shown)
    return code, f"{name}({code}): HTTP status code {shown}"


def _by_family(status: int) -> tuple[str, int]:
    if 400 <= status < 500:
        return "FAILED_PRECONDITION", 9
    if 500 <= status < 600:
        return "INTERNAL", 13
    return "UNKNOWN", 2
