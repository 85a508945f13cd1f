"""Answers the calls of every version of the API.

The calls work on messages of v2. A request of v2beta3 or v2beta2 is translated, and
so is the response. Those versions also have queues with statistics and with their own
lifetimes of tasks and names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf import field_mask_pb2

from cloudtask.emulator.calls.state import State
from cloudtask.emulator.protocol import (
    Message,
    Version,
    errors,
    from_v2,
    has,
    put_time,
    seconds_of,
    to_v2,
    v2,
)
from cloudtask.emulator.queues import DAY, Queue

Call = Callable[[State, Message], Message]

# For the fields of an update mask that have another path in v2, or none. The name is
# output only, so that its path changes nothing.
_PATHS = {
    "app_engine_http_queue": "app_engine_routing_override",
    "app_engine_http_target": "app_engine_routing_override",
    "rate_limits.max_tasks_dispatched_per_second": (
        "rate_limits.max_dispatches_per_second"
    ),
    "rate_limits.max_concurrent_tasks": "rate_limits.max_concurrent_dispatches",
    "retry_config.unlimited_attempts": "retry_config.max_attempts",
    "task_ttl": "name",
    "tombstone_ttl": "name",
    "stats": "name",
    "type": "name",
}
_LIFETIMES = {
    "task_ttl": ("retention", 10 * DAY, 3650 * DAY),
    "tombstone_ttl": ("tombstone", DAY / 24, 9 * DAY),
}
_PUSH, _PULL = 2, 1


def answer(state: State, version: Version, call: Call, request: Message) -> Message:
    """Run a call; when it returns, its changes survive a kill of the process.

    Raises `ApiError`.
    """
    with state.lock:
        if version is v2:
            response = call(state, request)
        else:
            response = _translated(state, version, call, request)
        state.journal.flush()
    return response


def _translated(
    state: State, version: Version, call: Call, request: Message
) -> Message:
    name = request.DESCRIPTOR.name
    given = getattr(request, "queue", None)
    if given is not None:
        # Before the call, while it can still be refused; applied after it.
        _check_queue(given)
    inner = to_v2(request, version)
    if name == "UpdateQueueRequest":
        paths = [_path(each) for each in request.update_mask.paths]
        inner.update_mask.paths[:] = paths
    shown = call(state, inner)
    if given is not None:
        _set_lifetimes(state, request, shown.name)
    response = from_v2(shown, version)
    _complete(state, request, response)
    return response


def _path(path: str) -> str:
    for other, own in _PATHS.items():
        if path == other:
            return own
        if path.startswith(f"{other}.app_engine_routing_override"):
            return path.removeprefix(f"{other}.")
    return path


def _check_queue(queue: Message) -> None:
    if getattr(queue, "type_", 0) == _PULL or has(queue, "pull_target"):
        raise errors.invalid("Pull queues are not supported by the emulator.")
    for field, (_, least, most) in _LIFETIMES.items():
        given = seconds_of(getattr(queue, field))
        if queue.HasField(field) and not least <= given <= most:
            raise errors.invalid(
                f"Queue.{field} must be between {least:.0f}s and {most:.0f}s."
            )


def _set_lifetimes(state: State, request: Message, name: str) -> None:
    """Take over how long tasks are kept and names stay taken."""
    paths = list(getattr(request, "update_mask", field_mask_pb2.FieldMask()).paths)
    changes: dict[str, Any] = {
        config: seconds_of(getattr(request.queue, field))
        for field, (config, _, _) in _LIFETIMES.items()
        if request.queue.HasField(field) and (field in paths or not paths)
    }
    if changes:
        queue = state.queues[name]
        queue.configure(replace(queue.config, **changes), now=state.clock())
        state.journal.put_queue(queue)


def _complete(state: State, request: Message, response: Message) -> None:
    """Add the facts about queues that v2 doesn't show."""
    name = response.DESCRIPTOR.name
    if name not in ("Queue", "ListQueuesResponse"):
        return
    mask = getattr(request, "read_mask", None)
    # Statistics are left out unless the mask names them (proto comment on read_mask).
    for shown in [response] if name == "Queue" else response.queues:
        _show(state, state.queues[shown.name], shown)
        if mask and mask.paths:
            _apply(mask, shown)
        else:
            shown.ClearField("stats")


def _show(state: State, queue: Queue, shown: Message) -> None:
    now = state.clock()
    put_time(shown.task_ttl, queue.config.retention)
    put_time(shown.tombstone_ttl, queue.config.tombstone)
    if "type_" in shown.DESCRIPTOR.fields_by_name:
        shown.type_ = _PUSH
    stats = shown.stats
    stats.tasks_count = len(queue.tasks)
    stats.executed_last_minute_count = queue.responses.total(now)
    stats.concurrent_dispatches_count = queue.running
    stats.effective_execution_rate = queue.rate(now)
    eta = queue.next_eta()
    if eta is not None:
        put_time(stats.oldest_estimated_arrival_time, eta)


def _apply(mask: Message, shown: Message) -> None:
    """Leave only the fields that the read mask names."""
    kept = type(shown)()
    # proto-plus calls the field "type_", as the word is a name of Python's.
    paths = ["type_" if path == "type" else path for path in mask.paths]
    try:
        field_mask_pb2.FieldMask(paths=paths).MergeMessage(shown, kept)
    except (KeyError, ValueError):
        raise errors.invalid("The read mask names no field of a queue.") from None
    shown.CopyFrom(kept)
