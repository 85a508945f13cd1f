"""A task as the emulator keeps it: the client's message and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cloudtask.emulator.attempt import Attempt, rpc_status
from cloudtask.emulator.protos import VIEW_BASIC, VIEW_FULL, Message, put_time


@dataclass(slots=True, eq=False)
class Task:
    """The stored form of a task; times are unix seconds.

    `message` holds what the client set, with the service's defaults filled in, and
    never changes. `response_count` counts every answer, `execution_count` those that
    were not 5xx: the two targets report different ones.
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
    shown = type(task.message)()
    shown.CopyFrom(task.message)
    put_time(shown.schedule_time, task.eta)
    shown.dispatch_count = task.dispatch_count
    shown.response_count = task.response_count
    if task.first_dispatch is not None:
        put_time(shown.first_attempt.dispatch_time, task.first_dispatch)
    if task.last_attempt is not None:
        _show_attempt(shown.last_attempt, task.last_attempt)
    if response_view == VIEW_FULL:
        shown.view = VIEW_FULL
        return shown
    return _without_body(shown)


def _without_body(shown: Message) -> Message:
    request = getattr(shown, shown.WhichOneof("message_type"))
    request.ClearField("body")
    shown.view = VIEW_BASIC
    return shown


def _show_attempt(field: Message, attempt: Attempt) -> None:
    put_time(field.schedule_time, attempt.schedule_time)
    put_time(field.dispatch_time, attempt.dispatch_time)
    if attempt.response_time is None:
        return
    put_time(field.response_time, attempt.response_time)
    code, message = rpc_status(attempt.status)
    field.response_status.code = code
    field.response_status.message = message
