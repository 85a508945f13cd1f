"""Calls CreateTask on the channel of Google's client, by a stub of our own.

The method of the client takes as much CPU time again as the call itself: it wraps
request and answer in objects of its own, and passes interceptors that make a future of
each call. This module does the rest itself: the header that routes the request, the
header that names the client, and the errors of google.api_core. Credentials belong to
the channel. The client itself never repeats a CreateTask.

The first send imports this module, since it imports grpc.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import grpc
from google.api_core import exceptions
from google.api_core.gapic_v1 import routing_header
from google.cloud.tasks_v2.services.cloud_tasks.transports import base

METHOD = "/google.cloud.tasks.v2.CloudTasks/CreateTask"

_stubs: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by client


def create(client: Any, request: Any, *, timeout: float) -> None:
    """Have the service create the task of a raw CreateTaskRequest.

    Waits `timeout` seconds at most. Raises the GoogleAPICallError that the client would
    raise, or a GoogleAuthError.
    """
    stub = _stubs.get(client)
    if stub is None:
        stub = _stubs[client] = client.transport.grpc_channel.unary_unary(
            METHOD,
            request_serializer=type(request).SerializeToString,
            response_deserializer=None,  # the task, which was sent just now
        )
    try:
        stub(request, timeout=timeout, metadata=_metadata(request.parent))
    except grpc.RpcError as error:
        raise exceptions.from_grpc_error(error) from error  # type: ignore[no-untyped-call]


@lru_cache(maxsize=64)
def _metadata(parent: str) -> tuple[tuple[str, str], ...]:
    return (
        routing_header.to_grpc_metadata((("parent", parent),)),  # type: ignore[no-untyped-call]
        base.DEFAULT_CLIENT_INFO.to_grpc_metadata(),  # type: ignore[no-untyped-call]
    )
