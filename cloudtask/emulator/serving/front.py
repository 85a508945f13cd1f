"""Listens on the gRPC port: passes gRPC on, and answers HTTP/1.1 with a sentence.

The gRPC library owns its own port and closes any other connection without a word that
a person could read. So it listens on a private port, and each connection whose first
bytes are those of HTTP/2 is passed on to it, byte by byte.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus

from cloudtask.emulator.serving.http2 import METHOD

_PATIENCE = 10.0  # seconds in which a connection must say what it speaks
_LONGEST_PAUSE = 1.0  # seconds to take in the rest of a request that was refused


class Front(asyncio.Protocol):
    """A client's side of a connection.

    `kept` is the set of connections to be closed at the end.
    """

    def __init__(
        self, grpc_port: int, sentence: Callable[[], str], kept: set[asyncio.Transport]
    ) -> None:
        self._grpc_port = grpc_port
        self._sentence = sentence
        self._kept = kept
        self._seen = b""
        self._back: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self.transport = transport
        self._kept.add(transport)
        loop = asyncio.get_running_loop()
        self._timeout = loop.call_later(_PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._back is not None:
            self._back.write(data)
            return
        if self._is_refused:
            return
        self._seen += data
        if len(self._seen) < len(METHOD) and METHOD.startswith(self._seen):
            return
        self._timeout.cancel()
        if not self._seen.startswith(METHOD):
            self._refuse()
        elif self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:
        self._timeout.cancel()
        self._kept.discard(self.transport)
        if self._back is not None:
            self._back.close()

    # The gRPC side reads slower than the client writes.

    def pause_writing(self) -> None:
        if self._back is not None:
            self._back.pause_reading()

    def resume_writing(self) -> None:
        if self._back is not None:
            self._back.resume_reading()

    async def _connect(self) -> None:
        self.transport.pause_reading()
        loop = asyncio.get_running_loop()
        try:
            back, _ = await loop.create_connection(
                lambda: _Back(self.transport), "127.0.0.1", self._grpc_port
            )
        except OSError:
            self.transport.abort()
            return
        if self.transport.is_closing():
            back.close()
            return
        self._back = back
        back.write(self._seen)
        self._seen = b""
        self.transport.resume_reading()

    def _refuse(self) -> None:
        """Answer, and close only later: a reset would take the answer back."""
        self._is_refused = True
        self.transport.write(_response(self._sentence()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        loop = asyncio.get_running_loop()
        self._timeout = loop.call_later(_LONGEST_PAUSE, self.transport.abort)


class _Back(asyncio.Protocol):
    """The gRPC library's side of a connection."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()


def _response(sentence: str) -> bytes:
    """An error as Google's REST surface writes it (google.rpc.Status as JSON)."""
    status = HTTPStatus.MISDIRECTED_REQUEST
    error = {"code": int(status), "message": sentence, "status": "INVALID_ARGUMENT"}
    body = json.dumps({"error": error}, indent=2).encode() + b"\n"
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\n"
        "Content-Type: application/json; charset=UTF-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
