"""Sends requests over kept-alive HTTP/1.1 connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from cloudtask.emulator.dispatch.pool import NeverAnswered, Pool
from cloudtask.emulator.dispatch.request import Outgoing
from cloudtask.emulator.dispatch.response import ResponseReader
from cloudtask.emulator.queues import Response

_SAFE = "!#$%&'()*+,/:;=?@[]~"


class Address(NamedTuple):
    """The parts of a URL: origin, Host header, and the path of the request line."""

    host: str
    port: int
    is_tls: bool
    host_header: str
    path: str


@lru_cache(maxsize=1024)
def address_of(url: str) -> Address:
    """The parts of `url`; `ValueError` when it can't be called."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("the URL names no host")
    is_tls = parts.scheme == "https"
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Address(
        parts.hostname,
        parts.port or (443 if is_tls else 80),
        is_tls,
        parts.netloc.rpartition("@")[2],
        path + query,
    )


def encode(request: Outgoing, address: Address) -> bytes:
    """The bytes of the request, to be sent in one piece."""
    lines = [
        f"{request.method} {address.path} HTTP/1.1",
        f"Host: {address.host_header}",
    ]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


def retry_after_seconds(value: str, now: float) -> float | None:
    """The header Retry-After in seconds from now; None when it is neither form."""
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(moment.timestamp() - now, 0.0)


class HttpClient:
    """Keeps one pool of connections per origin; `close` ends them all.

    `tls` is the context for https. By default it trusts the authorities of the system
    and those in `SSL_CERT_FILE`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._pools: dict[tuple[str, int, bool], Pool] = {}
        self._tls = tls

    async def send(self, request: Outgoing) -> Response:
        """Make the request; a failure of target or network is a `Response` too."""
        try:
            address = address_of(request.url)
            data = encode(request, address)
            async with asyncio.timeout(request.deadline):
                reader = await self._exchange(address, data, request.method == "HEAD")
        except TimeoutError:
            return Response(None, None, f"no response within {request.deadline:g} s")
        except (OSError, ValueError) as error:
            return Response(None, None, str(error) or type(error).__name__)
        retry_after = None
        if reader.retry_after:
            retry_after = retry_after_seconds(reader.retry_after, time.time())
        return Response(reader.status, retry_after, outcome=reader.outcome)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    async def _exchange(
        self, address: Address, data: bytes, is_head: bool
    ) -> ResponseReader:
        pool = self._pool(address)
        while True:
            connection = await pool.acquire()
            was_used = connection.used
            try:
                reader = await connection.exchange(data, is_head=is_head)
            except NeverAnswered:
                pool.discard(connection)
                # A server may close an idle connection just as we write to it.
                if was_used:
                    continue
                raise
            except BaseException:
                pool.discard(connection)
                raise
            if reader.keep_alive and not connection.closed:
                pool.release(connection)
            else:
                pool.discard(connection)
            return reader

    def _pool(self, address: Address) -> Pool:
        key = (address.host, address.port, address.is_tls)
        if key not in self._pools:
            self._pools[key] = Pool(address.host, address.port, self._context(address))
        return self._pools[key]

    def _context(self, address: Address) -> ssl.SSLContext | None:
        if not address.is_tls:
            return None
        self._tls = self._tls or ssl.create_default_context()
        return self._tls
