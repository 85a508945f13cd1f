"""Binds both ports around an engine, and stops everything in order."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine

import grpc
from aiohttp import web as aiohttp_web

from cloudtask.emulator.options import Settings
from cloudtask.emulator.serving import rpc
from cloudtask.emulator.serving.engine import Engine
from cloudtask.emulator.serving.front import Front
from cloudtask.emulator.serving.http2 import FirstBytes
from cloudtask.emulator.serving.web import application


class PortTaken(OSError):
    """Another program has the port that the emulator wants."""


_FOR_GRPC = "for gRPC (--port)"
_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a shared one
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)

Kept = set[asyncio.Transport]
"""Connections that are to be closed at the end."""


class Server:
    """Started and stopped once, inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self._stops: list[Callable[[], Awaitable[object]]] = []

    async def start(self) -> None:
        """Bind both ports and dispatch what is due; `OSError` when a port is taken."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        engine = self.engine
        self._stops.append(engine.close)
        engine.load()
        # Its port is the one that people know, though it is the last to be served.
        await self._check_port(self.engine.settings.port, _FOR_GRPC)
        await self._start_http()
        engine.start()
        self._stops.append(engine.stop)
        await self._start_grpc()
        self._run(engine.keep_house())
        self._run(engine.tick())

    async def stop(self) -> None:
        """Close the ports, abandon the requests in flight, write the data file."""
        while self._stops:
            await self._stops.pop()()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._stops.append(lambda: _cancelled(task))

    async def _start_http(self) -> None:
        settings = self.engine.settings
        # aiohttp logs a traceback for each malformed request; its answer says enough.
        quiet = logging.Logger("aiohttp")
        quiet.disabled = True
        runner = aiohttp_web.AppRunner(
            application(self.engine),
            access_log=None,
            logger=quiet,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._stops.append(runner.cleanup)
        address = await self._listen(
            lambda kept: FirstBytes(_handler_of(runner), self._not_for_grpc, kept),
            settings.http_port,
            "for REST and the status page (--http-port)",
        )
        self.engine.http_address = f"http://{address}"

    def _not_for_grpc(self) -> str:
        engine = self.engine
        return (
            f"{engine.http_address} is the HTTP port of the Cloud Tasks emulator, for "
            f"REST and the status page. Its gRPC port is {engine.address}."
        )

    def _only_for_grpc(self) -> str:
        engine = self.engine
        return (
            f"{engine.address} is the gRPC port of the Cloud Tasks emulator. REST and "
            f"the status page are at {engine.http_address}."
        )

    async def _start_grpc(self) -> None:
        server = grpc.aio.server(options=_GRPC_OPTIONS)
        server.add_generic_rpc_handlers((rpc.Handlers(self.engine.state),))
        private = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stops.append(lambda: server.stop(None))
        self.engine.address = await self._listen(
            lambda kept: Front(private, self._only_for_grpc, kept),
            self.engine.settings.port,
            _FOR_GRPC,
        )

    async def _check_port(self, port: int, what_for: str) -> None:
        """Raise `OSError` if `port` can't be had."""
        (await self._bound(asyncio.Protocol, port, what_for)).close()

    async def _listen(
        self, protocol: Callable[[Kept], asyncio.Protocol], port: int, what_for: str
    ) -> str:
        """The address, as "host:port", where connections are now accepted."""
        kept = set[asyncio.Transport]()
        listening = await self._bound(
            lambda: protocol(kept), port, what_for, start_serving=True
        )
        self._stops.append(lambda: _closed(listening, kept))
        bound_to = listening.sockets[0].getsockname()[1]
        return f"{_bracketed(self.engine.settings.host)}:{bound_to}"

    async def _bound(
        self,
        protocol: Callable[[], asyncio.Protocol],
        port: int,
        what_for: str,
        *,
        start_serving: bool = False,
    ) -> asyncio.Server:
        host, loop = self.engine.settings.host, asyncio.get_running_loop()
        try:
            return await loop.create_server(
                protocol, host, port, start_serving=start_serving
            )
        except OSError as error:
            kind = PortTaken if error.errno == errno.EADDRINUSE else OSError
            raise kind(_why_not(error, host, port, what_for)) from error


def _handler_of(runner: aiohttp_web.AppRunner) -> Callable[[], asyncio.Protocol]:
    assert runner.server is not None  # noqa: S101 - set up
    return runner.server


def _why_not(error: OSError, host: str, port: int, what_for: str) -> str:
    """Names the port that could not be had, who needs it, and the option."""
    need = f"The emulator needs it {what_for}."
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use. {need} Choose another, or 0 for any."
    reason = error.strerror or str(error)
    return f"{_bracketed(host)}:{port} can't be listened on: {reason}. {need}"


async def _closed(server: asyncio.Server, kept: Kept) -> None:
    server.close()
    for transport in kept:
        transport.abort()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
