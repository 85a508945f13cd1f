"""Answers gRPC clients that call the HTTP port with a sentence that they can show.

gRPC speaks HTTP/2, which the HTTP port doesn't. A client would only be told that the
connection broke. The few frames of HTTP/2 (RFC 9113) that carry an error are enough.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from urllib.parse import quote

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
METHOD = _PREFACE[:3]
"""The bytes with which a connection of HTTP/2 begins, and none of HTTP/1.1."""

_FRAME_HEADER = 9
_LONGEST_FRAME = 1 << 14  # as long as the other side is not allowed longer ones

_HEADERS, _SETTINGS, _PING = 0x1, 0x4, 0x6
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_UNIMPLEMENTED = "12"

MakeHandler = Callable[[], asyncio.Protocol]


class FirstBytes(asyncio.Protocol):
    """Gives a connection to the HTTP/1.1 handler, unless it begins as HTTP/2 does.

    `kept` has the connections that no handler has taken, to be closed at the end.
    """

    def __init__(
        self,
        make_handler: MakeHandler,
        sentence: Callable[[], str],
        kept: set[asyncio.Transport],
    ) -> None:
        self._make_handler = make_handler
        self._sentence = sentence
        self._kept = kept
        self._seen = b""
        self._refusal: Refusal | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._transport = transport
        self._kept.add(transport)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._refusal.take(data)
            return
        self._seen += data
        if len(self._seen) < len(METHOD) and METHOD.startswith(self._seen):
            return
        if self._seen.startswith(METHOD):
            self._refusal = Refusal(self._transport, self._sentence())
            self._refusal.take(self._seen)
        else:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept.discard(self._transport)

    def _hand_over(self) -> None:
        self._kept.discard(self._transport)
        handler = self._make_handler()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(self._seen)


class Refusal:
    """Answers every call of a gRPC client with UNIMPLEMENTED and a sentence."""

    def __init__(self, transport: asyncio.Transport, sentence: str) -> None:
        self._transport = transport
        self._response = _header_block(sentence)
        self._buffer = b""
        self._has_preface = False
        transport.write(_frame(_SETTINGS, 0, 0))

    def take(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_past_preface():
            return
        while len(self._buffer) >= _FRAME_HEADER:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _LONGEST_FRAME:
                self._transport.close()
                return
            if len(self._buffer) < _FRAME_HEADER + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self._buffer[3:_FRAME_HEADER])
            payload = self._buffer[_FRAME_HEADER : _FRAME_HEADER + length]
            self._buffer = self._buffer[_FRAME_HEADER + length :]
            self._answer(kind, flags, stream, payload)

    def _is_past_preface(self) -> bool:
        if self._has_preface:
            return True
        start = self._buffer[: len(_PREFACE)]
        if start == _PREFACE:
            self._has_preface = True
            self._buffer = self._buffer[len(_PREFACE) :]
        elif not _PREFACE.startswith(start):
            self._transport.close()
        return self._has_preface

    def _answer(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            flags = _END_STREAM | _END_HEADERS
            self._transport.write(_frame(_HEADERS, flags, stream, self._response))
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            echo = payload if kind == _PING else b""
            self._transport.write(_frame(kind, _ACK, 0, echo))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">BBI", kind, flags, stream)
    return len(payload).to_bytes(3, "big") + head + payload


def _header_block(sentence: str) -> bytes:
    """Headers of a gRPC error in HPACK (RFC 7541), as plain literals."""
    message = quote(sentence, safe=" !\"#$&'()*+,/:;<=>?@[]^`{|}")
    return b"\x88" + b"".join(  # 0x88 is ":status: 200" of the static table
        b"\x00" + _text(name) + _text(value)
        for name, value in (
            ("content-type", "application/grpc"),
            ("grpc-status", _UNIMPLEMENTED),
            ("grpc-message", message),
        )
    )


def _text(value: str) -> bytes:
    """A length with a prefix of 7 bits, and the bytes."""
    data = value.encode()
    if len(data) < 0x7F:
        return bytes([len(data)]) + data
    length, rest = b"\x7f", len(data) - 0x7F
    while rest >= 0x80:
        length += bytes([rest % 0x80 + 0x80])
        rest //= 0x80
    return length + bytes([rest]) + data
