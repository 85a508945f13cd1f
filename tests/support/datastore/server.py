"""The server: the service on a gRPC port of this machine."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support.datastore import protos
from tests.support.datastore.errors import Refused
from tests.support.datastore.faults import METHODS, Fault, Faults
from tests.support.datastore.limits import MIB, Limits
from tests.support.datastore.service import Service

THREADS = 32
# More than the service accepts, so that it is the service that refuses, in words.
LARGEST_MESSAGE = 64 * MIB


class DatastoreServer:
    """Google Cloud Datastore in memory, for tests.

    The real client reaches it when DATASTORE_EMULATOR_HOST is `address`. With
    `composite_indexes=False` it refuses, as a database without an index.yaml does,
    the queries that the built-in indexes cannot serve. `clock` counts seconds and
    decides when a transaction has expired.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        limits: Limits | None = None,
        composite_indexes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted_port = port
        self._limits = limits or Limits()
        self._composite_indexes = composite_indexes
        self._clock = clock
        self._lock = RLock()
        self._faults = Faults()
        self._service = self._new_service()
        self._server: grpc.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """ "127.0.0.1:port"; known once the server has started."""
        if self._server is None:
            raise RuntimeError("The Datastore server has not been started.")
        return f"127.0.0.1:{self._port}"

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called, failed calls included: a copy."""
        return self._faults.calls

    def start(self) -> Self:
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="datastore"),
            options=[
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
                ("grpc.max_send_message_length", LARGEST_MESSAGE),
                ("grpc.so_reuseport", 0),
            ],
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        self._port = server.add_insecure_port(f"127.0.0.1:{self._wanted_port}")
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=1).wait()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def reset(self) -> None:
        """Forgets all entities, transactions, faults and counts."""
        with self._lock:
            self._service = self._new_service()
        self._faults.clear()

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
        """Fails `times` calls of `method` with `code`, after `skip` good ones.

        With `apply` the call takes its effect first: the ambiguous case, in which
        the caller cannot know.
        """
        self._faults.add(method, Fault(code, message, apply, skip, times))

    def before_next(self, method: str, callback: Callable[[], object]) -> None:
        """Calls `callback` when the next call of `method` has arrived, before it acts.

        The callback may itself use the server: so a test puts one client's write
        between another's read and its commit.
        """
        self._faults.add_callback(method, callback)

    def expire_transactions(self) -> None:
        """Ends all open transactions, as the service does with idle ones."""
        with self._lock:
            self._service.expire_transactions()

    def _new_service(self) -> Service:
        return Service(
            self._limits, clock=self._clock, composite_indexes=self._composite_indexes
        )

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "google.datastore.v1.Datastore",
            {
                method: grpc.unary_unary_rpc_method_handler(
                    self._handler(method),
                    request_deserializer=getattr(protos, f"{method}Request").FromString,
                    response_serializer=lambda response: response.SerializeToString(),
                )
                for method in METHODS
            },
        )

    def _handler(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        attribute = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            fault = self._faults.meet(method)
            if fault and not fault.apply:
                context.abort(fault.code, fault.message)
            try:
                with self._lock:
                    response = getattr(self._service, attribute)(request)
            except Refused as refusal:
                context.abort(refusal.code, refusal.message)
            if fault:
                context.abort(fault.code, fault.message)
            return response

        return handle
