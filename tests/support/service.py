"""A Cloud Tasks server that misbehaves as it is told, for the real client.

`replies` are taken in order, one per call of CreateTask: a gRPC status refuses,
`CREATED_BUT` creates and refuses all the same, None does what was asked. Without any
left, calls succeed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.cloud import tasks_v2
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf import empty_pb2

from cloudtask.transports.cloud import requests

SERVICE = "google.cloud.tasks.v2.CloudTasks"
OPERATIONS = "google.longrunning.Operations"


@dataclass(frozen=True)
class Refuse:
    code: grpc.StatusCode
    text: str = "refused"
    creates: bool = False  # the answer of a call that has worked is lost


class Service:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tasks: dict[str, Any] = {}
        self.names: set[str] = set()
        self.queues: set[str] | None = None
        self.replies: list[Refuse | None] = []
        self.always: Refuse | None = None
        self.batch: Refuse | None = None
        self.calls: list[str] = []
        self.headers: list[dict[str, Any]] = []  # of CreateTask
        self.batch_sizes: list[int] = []
        self.address = ""

    # The behavior of the methods.

    def create(self, request: Any, context: Any) -> Any:
        self.headers.append(dict(context.invocation_metadata()))
        reply = self._next("CreateTask")
        if reply is None:
            return self._created(request, context)
        if reply.creates:
            self._store(request)
        return context.abort(reply.code, reply.text)

    def create_batch(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.calls.append("BatchCreateTasks")
            self.batch_sizes.append(len(request.requests))
        if self.batch is not None and not self.batch.creates:
            return context.abort(self.batch.code, self.batch.text)
        metadata = tasks_v2.BatchCreateTasksMetadata.pb()()
        for index, one in enumerate(request.requests):
            if not self._store(one):
                metadata.failed_requests[index].code = 6
                metadata.failed_requests[index].message = "exists"
        if self.batch is not None:
            return context.abort(self.batch.code, self.batch.text)
        operation = operations_pb2.Operation(name="operations/1", done=True)
        operation.metadata.Pack(metadata)
        operation.response.Pack(tasks_v2.BatchCreateTasksResponse.pb()())
        return operation

    def get(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.calls.append("GetTask")
        if request.name not in self.tasks:
            return context.abort(grpc.StatusCode.NOT_FOUND, "no task")
        return self.tasks[request.name]

    def delete(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.calls.append("DeleteTask")
            found = self.tasks.pop(request.name, None)
        if found is None:
            return context.abort(grpc.StatusCode.NOT_FOUND, "no task")
        return empty_pb2.Empty()

    def _next(self, call: str) -> Refuse | None:
        with self.lock:
            self.calls.append(call)
            if self.replies:
                return self.replies.pop(0)
            return self.always

    def _created(self, request: Any, context: Any) -> Any:
        if self.queues is not None and request.parent not in self.queues:
            return context.abort(grpc.StatusCode.NOT_FOUND, "Queue does not exist.")
        if not self._store(request):
            return context.abort(
                grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists"
            )
        return request.task

    def _store(self, request: Any) -> bool:
        with self.lock:
            if request.task.name in self.names:
                return False
            self.names.add(request.task.name)
            self.tasks[request.task.name] = request.task
            return True

    # Questions of tests.

    def waiting(self, queue: str) -> list[str]:
        infix = f"/queues/{queue}/tasks/"
        return [name.rpartition("/")[2] for name in self.tasks if infix in name]

    @property
    def creates(self) -> int:
        return self.calls.count("CreateTask")


def _handlers(service: Service) -> list[grpc.GenericRpcHandler]:
    def unary(call: Any, request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.pb().FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    methods = {
        "CreateTask": unary(service.create, tasks_v2.CreateTaskRequest),
        "DeleteTask": unary(service.delete, tasks_v2.DeleteTaskRequest),
        "GetTask": unary(service.get, tasks_v2.GetTaskRequest),
    }
    if requests.client_knows_batches():
        batch = unary(service.create_batch, tasks_v2.BatchCreateTasksRequest)
        methods["BatchCreateTasks"] = batch
    return [grpc.method_handlers_generic_handler(SERVICE, methods)]


@contextmanager
def serving() -> Iterator[Service]:
    service = Service()
    server = grpc.server(ThreadPoolExecutor(20))
    server.add_generic_rpc_handlers(tuple(_handlers(service)))
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()
