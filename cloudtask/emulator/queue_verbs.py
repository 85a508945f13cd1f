"""The calls on queues: functions of the state and a request."""

from __future__ import annotations

from cloudtask.emulator import errors, names, queue_rules
from cloudtask.emulator.paging import page
from cloudtask.emulator.protos import Empty, ListQueuesResponse, Message
from cloudtask.emulator.queue import Queue
from cloudtask.emulator.queue_filter import parse_filter
from cloudtask.emulator.state import State

MAX_PAGE = 9800


def create_queue(state: State, request: Message) -> Message:
    project, _ = names.parse_location(request.parent)
    state.check_project(project)
    name = names.parse_queue_name(request.queue.name)
    if name.parent != request.parent:
        raise errors.invalid(f"{name} must begin with {request.parent}.")
    queue_rules.check(request.queue)
    return queue_rules.to_message(_create(state, str(name), request.queue))


def _create(state: State, name: str, message: Message) -> Queue:
    if name in state.queues:
        raise errors.queue_exists()
    if state.buried_queues.get(name, 0.0) > state.clock():
        raise errors.queue_existed()
    project = names.parse_queue_name(name).project
    return state.open_queue(name, queue_rules.from_message(message, project))


def get_queue(state: State, request: Message) -> Message:
    return queue_rules.to_message(state.queue(request.name))


def list_queues(state: State, request: Message) -> Message:
    project, _ = names.parse_location(request.parent)
    state.check_project(project)
    matches = parse_filter(request.filter)
    prefix = f"{request.parent}/queues/"
    found = {
        name: queue_rules.to_message(queue)
        for name, queue in state.queues.items()
        if name.startswith(prefix)
    }
    chosen, token = page(
        sorted(name for name, shown in found.items() if matches(shown)),
        size=request.page_size,
        limit=MAX_PAGE,
        token=request.page_token,
        scope=f"{request.parent} {request.filter}",
    )
    queues = [found[name] for name in chosen]
    return ListQueuesResponse(queues=queues, next_page_token=token)


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
    named_one_by_one = bool(paths) and "retry_config" not in paths
    config = queue_rules.from_message(
        merged, name.project, is_complete=named_one_by_one
    )
    queue.configure(config, now=state.clock())
    return _changed(state, queue)


def delete_queue(state: State, request: Message) -> Message:
    name = str(names.parse_queue_name(request.name))
    queue = state.queues.pop(name, None)
    if queue is None:
        raise errors.not_found()
    queue.purge(now=state.clock(), remember=0.0)
    until = state.clock() + state.queue_tombstone
    state.buried_queues[name] = until
    state.policies.pop(name, None)
    state.journal.drop_queue(name, until)
    state.on_change(queue)
    return Empty()


def purge_queue(state: State, request: Message) -> Message:
    """Delete every task at once; the service may take up to a minute."""
    queue = state.queue(request.name)
    queue.purge(now=state.clock(), remember=state.task_tombstone)
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
