"""The gRPC side: `google.cloud.tasks.v2.CloudTasks` and the services beside it.

Generic handlers over the raw protobuf classes: the wire is the real one, without any
generated stub. gRPC's threaded server, because its asyncio one, measured with an echo,
takes a third more time per call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime
from operator import methodcaller
from typing import NoReturn, TypeAlias

import grpc
from google.cloud.location import locations_pb2  # type: ignore[import-untyped]
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.rpc import status_pb2  # type: ignore[import-untyped]

from cloudtask.emulator.calls import CALLS, Call, State, answer, run_task
from cloudtask.emulator.protocol import Message, errors, v2
from cloudtask.emulator.queues import view

Handler = Callable[[Message, grpc.ServicerContext], Message]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"

MAX_DEADLINE = 30.0
"""Seconds; the service refuses calls with a later deadline."""

_DEADLINE_SLACK = 1.0
_SERVICE = "google.cloud.tasks.v2.CloudTasks"
_ELSEWHERE = {
    "GetOperation": ("google.longrunning.Operations", operations_pb2),
    "ListLocations": ("google.cloud.location.Locations", locations_pb2),
    "GetLocation": ("google.cloud.location.Locations", locations_pb2),
    "GetIamPolicy": (_SERVICE, iam_policy_pb2),
    "SetIamPolicy": (_SERVICE, iam_policy_pb2),
    "TestIamPermissions": (_SERVICE, iam_policy_pb2),
}


class Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call by its path; `pool` is for RunTask."""

    def __init__(self, state: State, pool: ThreadPoolExecutor) -> None:
        self._found = {
            f"/{_ELSEWHERE.get(name, (_SERVICE,))[0]}/{name}": _handler(
                _answer(state, call), _request_class(name)
            )
            for name, call in CALLS.items()
        }
        self._found[f"/{_SERVICE}/RunTask"] = _handler(
            _run_task(state, pool), v2.RunTaskRequest
        )

    def service(self, details: grpc.HandlerCallDetails) -> MethodHandler | None:
        return self._found.get(details.method)


def _request_class(name: str) -> Message:
    home = _ELSEWHERE[name][1] if name in _ELSEWHERE else v2
    return getattr(home, f"{name}Request")


def _handler(behavior: Handler, request: Message) -> MethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behavior,
        request_deserializer=request.FromString,
        response_serializer=methodcaller("SerializeToString"),
    )


def _answer(state: State, call: Call) -> Handler:
    def behavior(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            _check_deadline(context.time_remaining())
            return answer(state, call, request)
        except errors.ApiError as error:
            _abort(context, error)

    return behavior


def _run_task(state: State, pool: ThreadPoolExecutor) -> Handler:
    def behavior(request: Message, context: grpc.ServicerContext) -> Message:
        try:
            with state.lock:
                task, ended = run_task(state, request)
            if ended is not None:
                ended.result()
        except errors.ApiError as error:
            _abort(context, error)
        except CancelledError:
            context.abort(grpc.StatusCode.UNAVAILABLE, "The dispatch was abandoned.")
        with state.lock:
            return view(task, request.response_view)

    # It may wait for the target, which may call in turn: it must not hold up others.
    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behavior


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
    if error.details:
        status = status_pb2.Status(code=error.code.value[0], message=error.message)
        for detail in error.details:
            status.details.add().Pack(detail)
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata(metadata)
    context.abort(error.code, error.message)
