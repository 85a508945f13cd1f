"""The gRPC side: `google.cloud.tasks.v2.CloudTasks` and the services beside it.

Generic handlers over the raw protobuf classes: the wire is the real one, without any
generated stub. gRPC's threaded server, because its asyncio one, measured with an echo,
takes a third more time per call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

import grpc

from cloudtask.emulator import (
    batch_verbs,
    errors,
    other_verbs,
    protos,
    queue_verbs,
    task_verbs,
)
from cloudtask.emulator.protos import Message
from cloudtask.emulator.state import State
from cloudtask.emulator.task import view

Verb = Callable[[State, Message], Message]
Handler = Callable[[Message, grpc.ServicerContext], Message]

MAX_DEADLINE = 30.0
"""Seconds; the service refuses calls with a later deadline."""

_DEADLINE_SLACK = 1.0


class Method(NamedTuple):
    """How a call is answered: by which function, from and to which class."""

    verb: Verb
    request: Message
    response: Message


_TASKS: dict[str, Method] = {
    "ListQueues": Method(
        queue_verbs.list_queues, protos.ListQueuesRequest, protos.ListQueuesResponse
    ),
    "GetQueue": Method(queue_verbs.get_queue, protos.GetQueueRequest, protos.Queue),
    "CreateQueue": Method(
        queue_verbs.create_queue, protos.CreateQueueRequest, protos.Queue
    ),
    "UpdateQueue": Method(
        queue_verbs.update_queue, protos.UpdateQueueRequest, protos.Queue
    ),
    "DeleteQueue": Method(
        queue_verbs.delete_queue, protos.DeleteQueueRequest, protos.Empty
    ),
    "PurgeQueue": Method(
        queue_verbs.purge_queue, protos.PurgeQueueRequest, protos.Queue
    ),
    "PauseQueue": Method(
        queue_verbs.pause_queue, protos.PauseQueueRequest, protos.Queue
    ),
    "ResumeQueue": Method(
        queue_verbs.resume_queue, protos.ResumeQueueRequest, protos.Queue
    ),
    "ListTasks": Method(
        task_verbs.list_tasks, protos.ListTasksRequest, protos.ListTasksResponse
    ),
    "GetTask": Method(task_verbs.get_task, protos.GetTaskRequest, protos.Task),
    "CreateTask": Method(task_verbs.create_task, protos.CreateTaskRequest, protos.Task),
    "DeleteTask": Method(
        task_verbs.delete_task, protos.DeleteTaskRequest, protos.Empty
    ),
    "BatchCreateTasks": Method(
        batch_verbs.batch_create_tasks,
        protos.BatchCreateTasksRequest,
        protos.Operation,
    ),
    "BatchDeleteTasks": Method(
        batch_verbs.batch_delete_tasks,
        protos.BatchDeleteTasksRequest,
        protos.Operation,
    ),
    "GetIamPolicy": Method(
        other_verbs.get_iam_policy, protos.GetIamPolicyRequest, protos.Policy
    ),
    "SetIamPolicy": Method(
        other_verbs.set_iam_policy, protos.SetIamPolicyRequest, protos.Policy
    ),
    "TestIamPermissions": Method(
        other_verbs.test_iam_permissions,
        protos.TestIamPermissionsRequest,
        protos.TestIamPermissionsResponse,
    ),
    "GetCmekConfig": Method(
        other_verbs.get_cmek_config, protos.GetCmekConfigRequest, protos.CmekConfig
    ),
    "UpdateCmekConfig": Method(
        other_verbs.update_cmek_config,
        protos.UpdateCmekConfigRequest,
        protos.CmekConfig,
    ),
}
_OPERATIONS: dict[str, Method] = {
    "GetOperation": Method(
        batch_verbs.get_operation,
        protos.GetOperationRequest,
        protos.Operation,
    ),
    "WaitOperation": Method(
        batch_verbs.get_operation,
        protos.WaitOperationRequest,
        protos.Operation,
    ),
    "ListOperations": Method(
        batch_verbs.list_operations,
        protos.ListOperationsRequest,
        protos.ListOperationsResponse,
    ),
    "CancelOperation": Method(
        batch_verbs.cancel_operation,
        protos.CancelOperationRequest,
        protos.Empty,
    ),
    "DeleteOperation": Method(
        batch_verbs.delete_operation,
        protos.DeleteOperationRequest,
        protos.Empty,
    ),
}
_LOCATIONS: dict[str, Method] = {
    "ListLocations": Method(
        other_verbs.list_locations,
        protos.ListLocationsRequest,
        protos.ListLocationsResponse,
    ),
    "GetLocation": Method(
        other_verbs.get_location,
        protos.GetLocationRequest,
        protos.Location,
    ),
}


def handlers(
    state: State, pool: ThreadPoolExecutor
) -> tuple[grpc.GenericRpcHandler, ...]:
    """What a `grpc.server` needs to answer for `state`; `pool` is for RunTask."""
    run = grpc.unary_unary_rpc_method_handler(
        _run_task(state, pool),
        request_deserializer=protos.RunTaskRequest.FromString,
        response_serializer=protos.Task.SerializeToString,
    )
    services = {
        "google.cloud.tasks.v2.CloudTasks": _table(state, _TASKS) | {"RunTask": run},
        "google.longrunning.Operations": _table(state, _OPERATIONS),
        "google.cloud.location.Locations": _table(state, _LOCATIONS),
    }
    return tuple(
        grpc.method_handlers_generic_handler(name, methods)
        for name, methods in services.items()
    )


def _table(
    state: State, methods: dict[str, Method]
) -> dict[str, grpc.RpcMethodHandler[Message, Message]]:
    return {
        name: grpc.unary_unary_rpc_method_handler(
            _answer(state, method.verb),
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )
        for name, method in methods.items()
    }


def _answer(state: State, verb: Verb) -> Handler:
    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            _check_deadline(context.time_remaining())
            with state.lock:
                response = verb(state, request)
                state.journal.flush()
        except errors.ApiError as error:
            _abort(context, error)
        return response

    return answer


def _run_task(state: State, pool: ThreadPoolExecutor) -> Handler:
    def run_task(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            with state.lock:
                task, ended = task_verbs.run_task(state, request)
            if ended is not None:
                ended.result()
        except errors.ApiError as error:
            _abort(context, error)
        except CancelledError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "The dispatch was abandoned.")
        with state.lock:
            return view(task, request.response_view)

    # It may wait for the target, which may call in turn: it must not hold up others.
    run_task.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return run_task


def _check_deadline(remaining: float | None) -> None:
    if remaining is None or remaining <= MAX_DEADLINE + _DEADLINE_SLACK:
        return
    # Without a deadline, some versions of gRPC answer with the end of time.
    if remaining > 366 * 86_400:
        return
    moment = datetime.fromtimestamp(datetime.now(UTC).timestamp() + remaining, UTC)
    raise errors.invalid(
        f"The request deadline is {moment.isoformat()}. The deadline cannot be more "
        "than 30s in the future."
    )


def _abort(context: grpc.ServicerContext, error: errors.ApiError) -> NoReturn:
    if error.help_link is not None:
        details = _details(error, error.help_link)
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(error.code, error.message)


def _details(error: errors.ApiError, link: errors.Help) -> bytes:
    status = protos.Status(code=error.code.value[0], message=error.message)
    status.details.add().Pack(
        protos.Help(
            links=[protos.Help.Link(description=link.description, url=link.url)]
        )
    )
    return bytes(status.SerializeToString())
