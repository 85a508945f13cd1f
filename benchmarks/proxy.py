"""A TCP proxy that lets each message take half of a round trip in each direction.

    python -m benchmarks.proxy LISTEN=HOST:PORT ...

Each line on its standard input is a new round trip in milliseconds. Data that is under
way doesn't hold up what follows, so the proxy delays and does not narrow.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping


class Delay:
    """The time that data takes in one direction, in seconds."""

    seconds = 0.0


class Side(asyncio.Protocol):
    """One end of a proxied connection; what it gets goes to the other end."""

    def __init__(self, delay: Delay) -> None:
        self.delay = delay
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        # What came before the other end was there.
        self._early: list[bytes] = []
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self._later(self.other.write, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        if self.other is not None:
            self._later(self.other.close)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def join(self, other: Side) -> None:
        self.other, other.other = other, self
        for data in self._early:
            self._later(other.write, data)
        if self._is_lost:
            self._later(other.close)

    def _later(self, call: object, *args: object) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay.seconds, call, *args)  # type: ignore[arg-type]


async def serve(routes: Mapping[int, tuple[str, int]], delay: Delay) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def obey() -> None:
        _obey(delay)
        loop.call_soon_threadsafe(ended.set)  # the other side is gone

    threading.Thread(target=obey, daemon=True).start()
    joining = set()

    for listen, (host, port) in routes.items():

        async def join(side: Side, host: str = host, port: int = port) -> None:
            try:
                _, other = await loop.create_connection(lambda: Side(delay), host, port)
            except OSError:
                side.close()
            else:
                side.join(other)

        def accepted(join: object = join) -> Side:
            side = Side(delay)
            task = loop.create_task(join(side))  # type: ignore[operator]
            joining.add(task)
            task.add_done_callback(joining.discard)
            return side

        await loop.create_server(accepted, "127.0.0.1", listen, backlog=128)
    await ended.wait()


def _obey(delay: Delay) -> None:
    for line in sys.stdin:
        delay.seconds = float(line) / 2000
        print("set", flush=True)


class Proxy:
    """Orders for a proxy in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def round_trip(self, milliseconds: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{milliseconds}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


def command(routes: Mapping[int, tuple[str, int]]) -> list[str]:
    arguments = [f"{listen}={host}:{port}" for listen, (host, port) in routes.items()]
    return [sys.executable, "-m", "benchmarks.proxy", *arguments]


def main() -> None:
    routes = {}
    for argument in sys.argv[1:]:
        listen, _, upstream = argument.partition("=")
        host, _, port = upstream.rpartition(":")
        routes[int(listen)] = (host, int(port))
    asyncio.run(serve(routes, Delay()))


if __name__ == "__main__":
    main()
