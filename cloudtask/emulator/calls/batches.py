"""BatchCreateTasks, BatchDeleteTasks, and the operations that they answer with.

The emulator has done the work when it answers, so each operation is finished from the
start. Clients that poll `google.longrunning.Operations` find it all the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from itertools import islice

import grpc
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf import empty_pb2

from cloudtask.emulator.calls.state import State
from cloudtask.emulator.calls.tasks import add_task, delete_named
from cloudtask.emulator.protocol import Message, copy_of, errors, put_time, v2
from cloudtask.emulator.protocol.errors import ApiError
from cloudtask.emulator.queues import Queue, Task, view

MAX_CREATES = 100
MAX_DELETES = 1000
_KEPT_OPERATIONS = 10_000

_SUCCEEDED, _FAILED_CREATE, _PARTIAL_CREATE = 2, 3, 5
_PARTIAL_DELETE, _FAILED_DELETE = 3, 4
_Failures = dict[int, ApiError]


def batch_create_tasks(state: State, request: Message) -> Message:
    """Create up to 100 tasks; a refused one doesn't hinder the others."""
    queue = state.queue(request.parent)
    _check_size(len(request.requests), MAX_CREATES, "requests")
    if any(each.parent != request.parent for each in request.requests):
        raise errors.invalid(
            "The parent of every CreateTaskRequest must be the same as the parent of "
            "the BatchCreateTasksRequest."
        )
    name = _operation_name(request, "create")
    if name in state.operations:
        return state.operations[name]
    metadata = v2.BatchCreateTasksMetadata()
    put_time(metadata.start_time, state.clock())
    tasks, failures = _create_each(state, queue, request.requests)
    state.on_change(queue)
    metadata.state = _state(len(tasks), failures, _PARTIAL_CREATE, _FAILED_CREATE)
    shown = [view(task, request.requests[i].response_view) for i, task in tasks.items()]
    response = v2.BatchCreateTasksResponse(tasks=shown)
    return _finish(state, name, metadata, response, failures, len(tasks))


def batch_delete_tasks(state: State, request: Message) -> Message:
    """Delete up to 1000 tasks of one queue; a refused one doesn't hinder the others."""
    queue = state.queue(request.parent)
    _check_size(len(request.names), MAX_DELETES, "names")
    if any(not name.startswith(f"{queue.name}/tasks/") for name in request.names):
        raise errors.invalid("Every task must belong to the queue of the parent.")
    name = _operation_name(request, "delete")
    if name in state.operations:
        return state.operations[name]
    metadata = v2.BatchDeleteTasksMetadata()
    put_time(metadata.start_time, state.clock())
    failures = _each(request.names, lambda task: delete_named(state, task))
    done = len(request.names) - len(failures)
    metadata.state = _state(done, failures, _PARTIAL_DELETE, _FAILED_DELETE)
    return _finish(state, name, metadata, empty_pb2.Empty(), failures, done)


def get_operation(state: State, request: Message) -> Message:
    operation = state.operations.get(request.name)
    if operation is None:
        raise errors.not_found()
    return operation


def _check_size(count: int, most: int, field: str) -> None:
    if not count:
        raise errors.invalid(f"The batch must have at least one of {field}.")
    if count > most:
        raise errors.invalid(f"The batch has {count} {field}; at most {most}.")


def _operation_name(request: Message, verb: str) -> str:
    """The same name for the same request id: a retry finds the first operation."""
    location = request.parent.rpartition("/queues/")[0]
    if not request.request_id:
        return f"{location}/operations/{uuid.uuid4()}"
    key = f"{request.parent} {verb} {request.request_id}"
    return f"{location}/operations/{uuid.uuid5(uuid.NAMESPACE_URL, key)}"


def _create_each(
    state: State, queue: Queue, requests: Iterable[Message]
) -> tuple[dict[int, Task], _Failures]:
    tasks: dict[int, Task] = {}
    failures: _Failures = {}
    for index, request in enumerate(requests):
        try:
            # A copy: a task that is kept must not keep the whole batch in memory.
            tasks[index] = add_task(state, queue, copy_of(request.task))
        except ApiError as error:
            failures[index] = error
    return tasks, failures


def _each(names: Iterable[str], act: Callable[[str], None]) -> _Failures:
    failures: _Failures = {}
    for index, name in enumerate(names):
        try:
            act(name)
        except ApiError as error:
            failures[index] = error
    return failures


def _state(done: int, failures: _Failures, partial: int, failed: int) -> int:
    if not failures:
        return _SUCCEEDED
    return partial if done else failed


def _finish(
    state: State,
    name: str,
    metadata: Message,
    response: Message,
    failures: _Failures,
    done: int,
) -> Message:
    put_time(metadata.end_time, state.clock())
    for index, error in failures.items():
        metadata.failed_requests[index].code = error.code.value[0]
        metadata.failed_requests[index].message = error.message
    operation = operations_pb2.Operation(name=name, done=True)
    operation.metadata.Pack(metadata)
    if done:
        operation.response.Pack(response)
    else:
        operation.error.code = grpc.StatusCode.ABORTED.value[0]
        operation.error.message = (
            "None of the requests succeeded, refer to "
            f"{metadata.DESCRIPTOR.name}.failed_requests for individual error details"
        )
    _keep(state, operation)
    return operation


def _keep(state: State, operation: Message) -> None:
    state.operations[operation.name] = operation
    state.journal.put_operation(operation)
    surplus = len(state.operations) - _KEPT_OPERATIONS
    for name in list(islice(state.operations, max(surplus, 0))):
        del state.operations[name]
        state.journal.drop_operation(name)
