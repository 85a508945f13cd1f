"""Translates messages between v2 and the beta versions, field by field.

Most fields have the same name in all versions, though not the same number. The tables
say which ones differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from google.protobuf import any_pb2

from cloudtask.emulator.protocol.messages import Message, Version, v2

Moves: TypeAlias = Mapping[str, str]

# For each message of v2: its paths, and those of the other version.
_MOVES: Mapping[str, Mapping[str, Moves]] = {
    "v2": {},
    "v2beta3": {
        "Queue": {
            "app_engine_routing_override": (
                "app_engine_http_queue.app_engine_routing_override"
            ),
        },
    },
    "v2beta2": {
        "Queue": {
            "app_engine_routing_override": (
                "app_engine_http_target.app_engine_routing_override"
            ),
        },
        "RateLimits": {
            "max_dispatches_per_second": "max_tasks_dispatched_per_second",
            "max_concurrent_dispatches": "max_concurrent_tasks",
        },
        "Task": {
            "dispatch_count": "status.attempt_dispatch_count",
            "response_count": "status.attempt_response_count",
            "first_attempt": "status.first_attempt_status",
            "last_attempt": "status.last_attempt_status",
        },
        "AppEngineHttpRequest": {"relative_uri": "relative_url", "body": "payload"},
    },
}
_UNLIMITED = -1


def to_v2(message: Message, version: Version) -> Message:
    """The same message in v2; fields that v2 doesn't have are left out."""
    name = message.DESCRIPTOR.name
    if version is v2 or not _is_of(message, version):
        return message
    target = getattr(v2, name)()
    _fill(target, message, _reversed(_MOVES[version.name]))
    return target


def from_v2(message: Message, version: Version) -> Message:
    """The same message in another version."""
    if version is v2:
        return message
    if message.DESCRIPTOR.full_name == "google.longrunning.Operation":
        return _operation(message, version)
    if not _is_of(message, v2):
        return message
    target = getattr(version, message.DESCRIPTOR.name)()
    _fill(target, message, _MOVES[version.name])
    return target


def _is_of(message: Message, version: Version) -> bool:
    package: str = message.DESCRIPTOR.file.package
    return package == f"google.cloud.tasks.{version.name}"


def _operation(operation: Message, version: Version) -> Message:
    target = type(operation)(name=operation.name, done=operation.done)
    target.metadata.CopyFrom(_repacked(operation.metadata, version))
    if operation.HasField("error"):
        target.error.CopyFrom(operation.error)
    else:
        target.response.CopyFrom(_repacked(operation.response, version))
    return target


def _repacked(packed: any_pb2.Any, version: Version) -> any_pb2.Any:
    package, _, name = packed.TypeName().rpartition(".")
    if package != "google.cloud.tasks.v2":
        return packed
    message = getattr(v2, name).FromString(packed.value)
    target = any_pb2.Any()
    target.Pack(from_v2(message, version))
    return target


def _reversed(moves: Mapping[str, Moves]) -> dict[str, dict[str, str]]:
    return {name: {b: a for a, b in paths.items()} for name, paths in moves.items()}


def _fill(target: Message, source: Message, moves: Mapping[str, Moves]) -> None:
    """Copy the fields that are set in `source` and that `target` has."""
    # Both versions of a message that has moves have the same name, so that one table
    # serves both directions.
    own = moves.get(source.DESCRIPTOR.name, {})
    for path, goal in own.items():
        found = _found(source, path.split("."))
        if found is not None:
            _put(target, goal.split("."), found, moves)
    moved = {path.partition(".")[0] for path in own}
    for field, value in source.ListFields():
        if field.name == "unlimited_attempts":
            target.max_attempts = _UNLIMITED
        elif field.name not in moved:
            _put(target, [field.name], value, moves)
    # Of a oneof in v2beta2: setting one field clears the other.
    is_limited = getattr(target, "max_attempts", 0) != _UNLIMITED
    if not is_limited and "unlimited_attempts" in target.DESCRIPTOR.fields_by_name:
        target.unlimited_attempts = True


def _found(source: Message, path: list[str]) -> Message:
    """The value at a path; None when it is not set."""
    for name in path:
        fields = {field.name: value for field, value in source.ListFields()}
        if name not in fields:
            return None
        source = fields[name]
    return source


def _put(
    target: Message, path: list[str], value: Message, moves: Mapping[str, Moves]
) -> None:
    *parents, name = path
    for parent in parents:
        target = getattr(target, parent)
    field = target.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        return
    if field.message_type is None and not hasattr(value, "extend"):
        setattr(target, name, value)
        return
    # Only containers lack DESCRIPTOR: repeated fields, and maps such as headers.
    goal = getattr(target, name)
    if field.message_type is None:
        goal.extend(value)
    elif hasattr(goal, "MergeFrom") and not hasattr(goal, "DESCRIPTOR"):
        _put_many(goal, value, moves)
    elif goal.DESCRIPTOR.full_name == value.DESCRIPTOR.full_name:
        goal.CopyFrom(value)
    else:
        # An empty message is set, too: {"app_engine_http_request": {}} is a task.
        goal.SetInParent()
        _fill(goal, value, moves)


def _put_many(goal: Message, values: Message, moves: Mapping[str, Moves]) -> None:
    """Fill a repeated field or a map."""
    if hasattr(goal, "add"):
        for value in values:
            _fill(goal.add(), value, moves)
    else:
        goal.MergeFrom(values)
