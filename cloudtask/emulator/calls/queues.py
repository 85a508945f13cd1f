"""Answers the calls on queues: functions of the state and a request."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf import empty_pb2

from cloudtask.emulator.calls import queue_rules
from cloudtask.emulator.calls.listing import page, queue_filter
from cloudtask.emulator.calls.state import State
from cloudtask.emulator.protocol import Message, errors, names, v2
from cloudtask.emulator.queues import Queue, QueueConfig

MAX_PAGE = 9800


def create_queue(state: State, request: Message) -> Message:
    if not names.is_location(request.parent):
        raise errors.project_denied(request.parent)
    state.check_project(names.parse_location(request.parent)[0])
    name = names.parse_queue_name(request.queue.name)
    if name.parent != request.parent:
        raise errors.invalid(f"{name} must begin with {request.parent}.")
    queue_rules.check(request.queue)
    return queue_rules.to_message(_create(state, str(name), request.queue))


def _create(state: State, name: str, message: Message) -> Queue:
    if name in state.queues:
        raise errors.queue_exists()
    if state.deleted_queues.get(name, 0.0) > state.clock():
        raise errors.queue_existed()
    project = names.parse_queue_name(name).project
    config = queue_rules.from_message(message, project, state.defaults)
    return state.open_queue(name, config)


def get_queue(state: State, request: Message) -> Message:
    return queue_rules.to_message(state.queue(request.name))


def list_queues(state: State, request: Message) -> Message:
    project, _ = names.parse_location(request.parent)
    state.check_project(project)
    matches = queue_filter(request.filter)
    prefix = f"{request.parent}/queues/"
    chosen, token = page(
        sorted(
            name
            for name, queue in state.queues.items()
            if name.startswith(prefix) and matches(queue)
        ),
        size=request.page_size,
        limit=MAX_PAGE,
        token=request.page_token,
        scope=f"{request.parent} {request.filter}",
    )
    shown = [queue_rules.to_message(state.queues[name]) for name in chosen]
    return v2.ListQueuesResponse(queues=shown, next_page_token=token)


def update_queue(state: State, request: Message) -> Message:
    """Change the fields of the mask, or create the queue if there is none."""
    name = names.parse_queue_name(request.queue.name)
    state.check_project(name.project)
    queue = state.queues.get(str(name))
    if queue is None:
        queue_rules.check(request.queue)
        return queue_rules.to_message(_create(state, str(name), request.queue))
    paths = list(request.update_mask.paths)
    merged = queue_rules.merge(queue_rules.to_message(queue), request.queue, paths)
    queue_rules.check(merged)
    config = _updated(state, queue, merged, paths)
    queue.configure(config, now=state.clock())
    return _changed(state, queue)


def _updated(
    state: State, queue: Queue, merged: Message, paths: list[str]
) -> QueueConfig:
    project = names.parse_queue_name(queue.name).project
    if paths and "retry_config" not in paths:
        config = queue_rules.from_complete_message(merged, project)
    else:
        config = queue_rules.from_message(merged, project, state.defaults)
    current = queue.config
    return replace(config, tombstone=current.tombstone, retention=current.retention)


def delete_queue(state: State, request: Message) -> Message:
    name = str(names.parse_queue_name(request.name))
    queue = state.queues.pop(name, None)
    if queue is None:
        raise errors.not_found()
    queue.purge(now=state.clock())
    until = state.clock() + state.queue_tombstone
    state.deleted_queues[name] = until
    state.journal.drop_queue(name, until)
    state.on_change(queue)
    return empty_pb2.Empty()


def purge_queue(state: State, request: Message) -> Message:
    """Delete every task at once; the service may take up to a minute."""
    queue = state.queue(request.name)
    queue.purge(now=state.clock())
    state.journal.purge_queue(queue)
    return _changed(state, queue)


def pause_queue(state: State, request: Message) -> Message:
    return _set_paused(state, request.name, True)


def resume_queue(state: State, request: Message) -> Message:
    return _set_paused(state, request.name, False)


def _set_paused(state: State, name: str, paused: bool) -> Message:
    queue = state.queue(name)
    queue.paused = paused
    return _changed(state, queue)


def _changed(state: State, queue: Queue) -> Message:
    state.journal.put_queue(queue)
    state.on_change(queue)
    return queue_rules.to_message(queue)
