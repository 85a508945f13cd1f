"""Answers the calls on tasks: functions of the state and a request."""

from __future__ import annotations

from concurrent.futures import Future
from urllib.parse import parse_qs

from google.protobuf import empty_pb2

from cloudtask.emulator.calls import queue_rules, task_rules
from cloudtask.emulator.calls.listing import page
from cloudtask.emulator.calls.state import State
from cloudtask.emulator.protocol import Message, errors, has, names, v2
from cloudtask.emulator.queues import Queue, Task, view

MAX_PAGE = 1000


def create_task(state: State, request: Message) -> Message:
    queue = state.queue(request.parent)
    task = add_task(state, queue, request.task)
    state.on_change(queue)
    return view(task, request.response_view)


def add_task(state: State, queue: Queue, message: Message) -> Task:
    """Check a task and put it into the queue; `message` becomes its stored form."""
    now = state.clock()
    if has(message, "retry_config"):
        queue_rules.check_retry(message.retry_config)
    task_id = task_rules.task_id_of(message, queue.name)
    if task_id and queue.is_name_taken(task_id, now):
        raise errors.task_exists()
    task_id = task_id or state.new_task_id()
    eta = task_rules.complete(
        message,
        name=f"{queue.name}/tasks/{task_id}",
        now=now,
        project=queue.name.split("/", 2)[1],
        plain_tokens=state.plain_tokens,
    )
    task = Task(task_id, message, eta, now)
    queue.add(task)
    state.journal.put_task(queue, task)
    return task


def get_task(state: State, request: Message) -> Message:
    queue_name, task_id = names.split_task_name(request.name)
    names.check_task_id(task_id)
    queue = state.queue(queue_name)
    task = queue.tasks.get(task_id)
    if task is not None:
        return view(task, request.response_view)
    if queue.existed_recently(task_id, state.clock()):
        raise errors.task_gone()
    raise errors.not_found()


def list_tasks(state: State, request: Message) -> Message:
    queue = state.queue(request.parent)
    chosen, token = page(
        sorted(queue.tasks),
        size=request.page_size,
        limit=MAX_PAGE,
        token=request.page_token,
        scope=request.parent,
    )
    tasks = [view(queue.tasks[task_id], request.response_view) for task_id in chosen]
    return v2.ListTasksResponse(tasks=tasks, next_page_token=token)


def delete_task(state: State, request: Message) -> Message:
    delete_named(state, request.name)
    return empty_pb2.Empty()


def delete_named(state: State, name: str) -> None:
    queue, task = state.task(name)
    state.drop_task(queue, task)
    state.on_change(queue)


def run_task(state: State, request: Message) -> tuple[Task, Future[None] | None]:
    """Dispatch a task now, whatever its schedule and the queue's limits.

    The name may end in "?port=8000", as with the gcloud-tasks-emulator package: the
    request then goes to that port of the target's host. That package answers when the
    request has ended; the second value is a future of that moment.
    """
    name, _, query = request.name.partition("?")
    port = _port_of(query)
    queue, task = state.task(name)
    dispatch = queue.force(task, state.clock())
    ended = state.on_force(queue, dispatch, port)
    return task, ended if port else None


def _port_of(query: str) -> int | None:
    values = parse_qs(query).get("port")
    if not values:
        return None
    if not values[0].isdecimal() or not 0 < int(values[0]) < 65_536:
        raise errors.invalid(f"Invalid port in the task's name: {values[0]!r}.")
    return int(values[0])
