"""A way to a Datastore on which a test can let things go wrong.

It passes the calls of the real client on to a real server, as bytes. On request it
fails some of them, before they reach the server or after, and counts all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import grpc

SERVICE = "google.datastore.v1.Datastore"
METHODS = (
    *("Lookup", "RunQuery", "RunAggregationQuery", "BeginTransaction", "Commit"),
    *("Rollback", "AllocateIds", "ReserveIds"),
)
THREADS = 32
PATIENCE = 60.0  # seconds for one call of the real server
# Messages are as large as the real server takes them.
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


@dataclass
class _Fault:
    skip: int
    times: int = 1
    code: grpc.StatusCode | None = None
    message: str = ""
    apply: bool = False
    callback: Callable[[], object] | None = None


class DatastoreProxy:
    """Passes calls on to the server at `upstream`, whose `kind` is an emulator's."""

    def __init__(self, upstream: str, kind: str) -> None:
        self.upstream = upstream
        self.kind = kind
        self.largest = 0  # bytes of a request since the last reset
        self.disturbed = 0  # calls that the server refused, or that took too long
        self._lock = Lock()
        self._faults: dict[str, list[_Fault]] = {}
        self._calls: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(upstream, OPTIONS)
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
        handlers = {method: self._handler(method) for method in METHODS}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called, failed calls included: a copy."""
        with self._lock:
            return self._calls.copy()

    def fail_next(
        self,
        method: str,
        code: grpc.StatusCode,
        *,
        apply: bool = False,
        times: int = 1,
        skip: int = 0,
        message: str = "A fault that the test asked for.",
    ) -> None:
        """Fail `times` calls of `method` with `code`, after `skip` that succeeded.

        With `apply` the server makes the call first: its answer gets lost.
        """
        self._add(method, _Fault(skip, times, code, message, apply))

    def before_next(
        self, method: str, callback: Callable[[], object], *, skip: int = 0
    ) -> None:
        """Call `callback` when the next call of `method` has arrived, before it acts,
        after `skip` that succeeded.

        The callback may use the server itself.
        """
        self._add(method, _Fault(skip, callback=callback))

    def _add(self, method: str, fault: _Fault) -> None:
        with self._lock:
            self._faults.setdefault(method, []).append(fault)

    def reset(self) -> None:
        with self._lock:
            self._faults.clear()
            self._calls.clear()
            self.largest = self.disturbed = 0

    def stop(self) -> None:
        self._server.stop(grace=1).wait()
        self._channel.close()

    def _handler(self, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        upstream = self._channel.unary_unary(f"/{SERVICE}/{method}")

        def handle(request: bytes, context: grpc.ServicerContext) -> Any:
            fault = self._meet(method, request)
            if fault and not fault.apply:
                _abort(context, fault)
            try:
                answer = upstream(request, timeout=PATIENCE, metadata=_passed(context))
            except grpc.RpcError as error:
                refused: Any = error
                self._was_refused(method, refused.code())
                context.abort(refused.code(), refused.details() or "")
            if fault:
                _abort(context, fault)
            self._has_succeeded(method)
            if not context.is_active():
                self._is_disturbed()
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)

    def _meet(self, method: str, request: bytes) -> _Fault | None:
        """Count a call; the error that it meets, if one is due."""
        with self._lock:
            self._calls[method] += 1
            self.largest = max(self.largest, len(request))
            due = self._due(self._faults.get(method, []))
        for fault in due:
            if fault.callback is not None:
                fault.callback()
        return next((fault for fault in due if fault.code is not None), None)

    def _was_refused(self, method: str, code: grpc.StatusCode) -> None:
        """Forget a call that the emulator does not know: another one follows."""
        if code is not grpc.StatusCode.UNIMPLEMENTED:
            self._is_disturbed()
            return
        with self._lock:
            self._calls[method] -= 1

    def _is_disturbed(self) -> None:
        with self._lock:
            self.disturbed += 1

    @staticmethod
    def _due(waiting: list[_Fault]) -> list[_Fault]:
        """All callbacks and the first error that are due."""
        due = [one for one in waiting if one.callback is not None and not one.skip]
        due += [one for one in waiting if one.code is not None and not one.skip][:1]
        for one in due:
            one.times -= 1
        waiting[:] = [one for one in waiting if one.times]
        return due

    def _has_succeeded(self, method: str) -> None:
        with self._lock:
            for waiting in self._faults.get(method, []):
                waiting.skip = max(0, waiting.skip - 1)


def _abort(context: grpc.ServicerContext, fault: _Fault) -> None:
    assert fault.code is not None
    context.abort(fault.code, fault.message)


def _passed(context: grpc.ServicerContext) -> list[Any]:
    """The headers that name the project and the database."""
    metadata: Any = context.invocation_metadata()
    return [one for one in metadata if one[0].startswith("x-goog")]
