"""A target for dispatches: answers as told, remembers what came."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message
    body: bytes
    at: float

    def facts(self, prefix: str) -> dict[str, str]:
        """The headers X-<prefix>-*, without the part that all share."""
        start = f"x-{prefix}-".lower()
        return {
            name[len(start) :].lower(): value
            for name, value in self.headers.items()
            if name.lower().startswith(start)
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed or cancels is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Sink:
    """Answers per path with the statuses given, the last for ever; 200 by default."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.statuses: dict[str, deque[int]] = defaultdict(deque)
        self.answer_headers: dict[str, str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.active = 0
        self.most_active = 0
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def answer(self, path: str, *statuses: int) -> str:
        """Answer requests to `path` with these statuses; returns its URL."""
        self.statuses[path] = deque(statuses)
        return self.url + path

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[Request]:
        """The requests, once there are `count`."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came")
        return list(self.requests)

    @contextmanager
    def running(self) -> Iterator[Sink]:
        self._thread.start()
        try:
            yield self
        finally:
            self.hold.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _take(self, request: Request) -> int:
        with self._changed:
            self.requests.append(request)
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            self._changed.notify_all()
            statuses = self.statuses[request.path]
            if len(statuses) > 1:
                return statuses.popleft()
            return statuses[0] if statuses else 200

    def _done(self) -> None:
        with self._changed:
            self.active -= 1
            self._changed.notify_all()

    def _handler(sink) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                status = sink._take(
                    Request(self.command, self.path, self.headers, body, time.time())
                )
                sink.hold.wait(PATIENCE)
                sink._done()
                self.send_response(status)
                for name, value in sink.answer_headers.items():
                    self.send_header(name, value)
                if status // 100 == 3:
                    self.send_header("Location", sink.url + "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any
            do_HEAD = do_OPTIONS = handle_any

            def log_message(self, *args: object) -> None:
                """Quiet: the test says what went wrong."""

        return Handler
