"""Answers gRPC: `google.cloud.tasks.*.CloudTasks` and the services beside it.

Generic handlers over the raw protobuf classes: the wire is the real one, without any
generated stub. gRPC's asyncio server: with its threaded one, each call waits for its
turn three times, and the calls compete with the dispatches for the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from operator import methodcaller
from typing import NoReturn, TypeAlias

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from cloudtask.emulator.calls import CALLS, Call, State, answer
from cloudtask.emulator.protocol import (
    VERSIONS,
    Message,
    Version,
    errors,
    request_class,
    v2,
)
from cloudtask.emulator.serving.running import run_task

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"
Answering = Callable[[Message, Context], Awaitable[Message]]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Message, Message]"

MAX_DEADLINE = 30.0
"""Seconds; the service refuses calls with a later deadline."""

_DEADLINE_SLACK = 1.0
_SERVICE = "google.cloud.tasks.{}.CloudTasks"
_OTHER_SERVICES = {
    "google.longrunning.Operations": ("GetOperation",),
    "google.cloud.location.Locations": ("ListLocations", "GetLocation"),
}


class Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call by its path."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._versions = {
            _SERVICE.format(each.name): each for each in VERSIONS.values()
        }
        self._found: dict[str, MethodHandler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> MethodHandler:
        found = self._found.get(details.method)
        if found is not None:
            return found
        # Made at the first call: most clients use one version and a few calls.
        made = self._make(details.method)
        if made is None:
            return _unknown(details.method)
        self._found[details.method] = made
        return made

    def _make(self, path: str) -> MethodHandler | None:
        service, _, name = path.removeprefix("/").partition("/")
        version = self._versions.get(service, v2)
        known = CALLS if service in self._versions else _OTHER_SERVICES.get(service, ())
        request = request_class(version, name)
        if name == "RunTask" and service in self._versions:
            return _handler(_run_task(self._state, version), request)
        if name not in known or request is None:
            return None
        return _handler(_answer(self._state, version, CALLS[name]), request)


def _unknown(path: str) -> MethodHandler:
    async def behavior(_: bytes, context: Context) -> None:
        message = f"The emulator has no method {path}."
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    return grpc.unary_unary_rpc_method_handler(behavior)


def _handler(answering: Answering, request: Message) -> MethodHandler:
    async def behavior(request: Message, context: Context) -> Message:
        try:
            return await answering(request, context)
        except errors.ApiError as error:
            await _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(
        behavior,
        request_deserializer=request.FromString,
        response_serializer=methodcaller("SerializeToString"),
    )


def _answer(state: State, version: Version, call: Call) -> Answering:
    async def answering(request: Message, context: Context) -> Message:
        _check_deadline(context.time_remaining())
        return answer(state, version, call, request)

    return answering


def _run_task(state: State, version: Version) -> Answering:
    async def answering(request: Message, _: Context) -> Message:
        return await run_task(state, version, request)

    return answering


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


async def _abort(context: Context, error: errors.ApiError) -> NoReturn:
    if error.details:
        status = status_pb2.Status(code=error.code.value[0], message=error.message)
        for detail in error.details:
            status.details.add().Pack(detail)
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata(metadata)
    await context.abort(error.code, error.message)
