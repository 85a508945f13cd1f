"""Servers that answer as Cloud Tasks, Datastore or a handler would in trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
from google.cloud import tasks_v2
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]

DENIED = grpc.StatusCode.PERMISSION_DENIED
Reply = Callable[[Any], Any]


class _Handlers(grpc.GenericRpcHandler):
    """Answers each method by its short name, and refuses all others."""

    def __init__(self, replies: dict[str, Reply], why: str) -> None:
        self.replies, self.why = replies, why

    def service(self, details: Any) -> Any:
        reply = self.replies.get(details.method.rpartition("/")[2])

        def answered(request: bytes, context: Any) -> bytes:
            if reply is None:
                context.abort(DENIED, self.why)
            answer: bytes = reply(request).SerializeToString()
            return answer

        return grpc.unary_unary_rpc_method_handler(answered)


@contextmanager
def denying(why: str, **replies: Reply) -> Iterator[str]:
    """The address of a gRPC server that refuses every method but those of `replies`."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_Handlers(replies, why),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def queues_of(state: int) -> Reply:
    """A reply to ListQueues: one queue `mail`, in this state."""
    queue = tasks_v2.Queue(name="projects/p/locations/l/queues/mail", state=state)
    queue.retry_config.max_attempts = -1
    found = tasks_v2.ListQueuesResponse(queues=[queue])
    return lambda request: tasks_v2.ListQueuesResponse.pb(found)


def no_permissions(request: Any) -> Any:
    return iam_policy_pb2.TestIamPermissionsResponse()


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """The address of an HTTP server with one answer to every POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
