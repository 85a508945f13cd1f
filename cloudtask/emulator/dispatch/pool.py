"""Keeps connections to one origin alive.

The service increases its load slowly. So does the pool, to spare a local server a
thousand connections at once: beyond the first few, it opens a new one only while
requests wait and the open ones don't come free.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from cloudtask.emulator.dispatch.response import BadResponse, ResponseReader

MAX_IDLE = 1.0
"""Seconds after which an idle connection is closed: the server may do it first."""

_AT_ONCE = 24
_TICK = 0.005
_TICKS_PER_SLOW_STEP = 10


class NeverAnswered(ConnectionResetError):
    """The connection ended before any byte of a response arrived."""


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.used = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._answer: asyncio.Future[ResponseReader] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            self.close()
            return
        try:
            reader.feed(data)
        except BadResponse as error:
            self._fail(error)
            return
        if reader.done:
            self._succeed(reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        reader = self._reader
        if reader is None:
            return
        reader.feed_eof()
        if reader.done:
            self._succeed(reader)
        elif reader.started:
            self._fail(ConnectionResetError("the connection was closed midway"))
        else:
            self._fail(NeverAnswered("the connection was closed"))

    async def exchange(self, data: bytes, *, is_head: bool) -> ResponseReader:
        """Send a request, wait for the end of its response.

        Raises `ConnectionError`; cancelled, it closes the connection.
        """
        if self._transport is None or self.closed:
            raise NeverAnswered("the connection was closed")
        self._reader = ResponseReader(is_head_request=is_head)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._reader = self._answer = None
            self.used = True

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _succeed(self, reader: ResponseReader) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reader)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.close()


class Pool:
    """The connections to one host and port."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._released = 0
        self._ticks = 0

    async def acquire(self) -> Connection:
        """A connection for one exchange; `OSError` when none can be opened."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not self._is_stale(connection):
                return connection
            self.discard(connection)
        if len(self._all) + self._opening < _AT_ONCE:
            return await self._open()
        return await self._wait() or await self._open()

    def release(self, connection: Connection) -> None:
        """Give a connection back for the next request."""
        self._released += 1
        if not self._hand_over(connection):
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(MAX_IDLE, self._sweep)

    def discard(self, connection: Connection) -> None:
        """Close a connection; a waiting request may open another."""
        self._all.discard(connection)
        connection.close()
        self._hand_over(None)

    def close(self) -> None:
        for connection in list(self._all):
            connection.close()
        self._all.clear()
        self._idle.clear()
        for timer in filter(None, (self._timer, self._sweeper)):
            timer.cancel()

    def _sweep(self) -> None:
        """Close idle connections: each occupies a thread of a threaded server."""
        self._sweeper = None
        # Released connections are appended, so the longest idle are at the front.
        fresh = next(
            (i for i, each in enumerate(self._idle) if not self._is_stale(each)),
            len(self._idle),
        )
        stale, self._idle = self._idle[:fresh], self._idle[fresh:]
        for connection in stale:
            self.discard(connection)
        if self._idle:
            self._sweeper = self._loop.call_later(MAX_IDLE, self._sweep)

    def _is_stale(self, connection: Connection) -> bool:
        return self._loop.time() - connection.idle_since > MAX_IDLE

    async def _open(self) -> Connection:
        self._opening += 1
        try:
            _, connection = await self._loop.create_connection(
                Connection, self._host, self._port, ssl=self._tls
            )
        except OSError:
            # The waiting requests may have no one else to wake them.
            self._hand_over(None)
            raise
        finally:
            self._opening -= 1
        self._all.add(connection)
        return connection

    async def _wait(self) -> Connection | None:
        """A freed connection, or None for permission to open one."""
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK, self._grow)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._pass_on(waiter)
            raise

    def _pass_on(self, waiter: asyncio.Future[Connection | None]) -> None:
        if waiter.done() and not waiter.cancelled():
            connection = waiter.result()
            if connection is None:
                self._hand_over(None)
            else:
                self.release(connection)

    def _hand_over(self, connection: Connection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _grow(self) -> None:
        """Let some of the waiting requests open connections.

        While none comes free, half as many again as there are; otherwise one from time
        to time.
        """
        self._timer = None
        self._ticks += 1
        if not self._released:
            steps = max(len(self._all) // 2, 1)
        else:
            steps = 1 if self._ticks % _TICKS_PER_SLOW_STEP == 0 else 0
        self._released = 0
        for _ in range(steps):
            self._hand_over(None)
        if self._waiters:
            self._timer = self._loop.call_later(_TICK, self._grow)
