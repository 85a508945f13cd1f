"""An application in processes of its own, beside an emulator in this one."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from cloudtask.emulator import Emulator
from tests.durability.children import main
from tests.support.waiting import PATIENCE, wait_until

KILLED = -signal.SIGKILL
QUEUES = {"default": {"backoff": "0.01s..0.05s"}}
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.durability.children"])


class Site:
    """An emulator, a server for its dispatches, and processes that defer and relay."""

    def __init__(self, emulator: Emulator, port: int, address: str = "") -> None:
        self.emulator = emulator
        self.port = port
        self.server: Any = None
        self.setup = {
            "emulator": address or emulator.address,
            "cloudtask": {
                "PROJECT": "p",
                "LOCATION": "l",
                "MAX_TASK_SIZE": 20_000,
                "TRANSPORT": {"BACKEND": "cloudtask.transports.cloud.CloudTransport"},
            },
            "databases": {
                alias: {
                    key: connections.settings[alias][key] for key in ("NAME", "OPTIONS")
                }
                for alias in connections
            },
        }

    def run(
        self, verb: str, *args: Any, point: str | None = None, **kwargs: Any
    ) -> int:
        """Let a process of its own do `verb`; its exit code."""
        process = self._start(verb, *args, point=point, **kwargs)
        process.join(PATIENCE)
        return process.exitcode

    def _start(
        self, verb: str, *args: Any, point: str | None = None, **kwargs: Any
    ) -> Any:
        process = context.Process(
            target=main, args=(self.setup, point, verb, args, kwargs), daemon=True
        )
        process.start()
        return process

    def serve(self, point: str | None = None) -> None:
        ready, told = context.Pipe(duplex=False)
        self.server = self._start("serve", self.port, told, point=point)
        told.close()
        assert ready.poll(PATIENCE), "the server did not start"
        ready.recv()

    def server_dies(self) -> None:
        self.server.join(PATIENCE)
        assert self.server.exitcode == KILLED

    def stop(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.join(PATIENCE)

    def settle(self) -> None:
        """A server that lives, a relay, and all the time that tasks need."""
        if self.server is None or not self.server.is_alive():
            self.serve()
        assert self.run("relay", 2.0) == 0
        self.emulator.wait_idle(PATIENCE, scheduled=True)

    def drain(self) -> None:
        """Wait until no task is left, as long as some go: no deadline for them all."""
        while left := depth_of(self.emulator):
            wait_until(
                lambda left=left: depth_of(self.emulator) < left, f"{left} tasks go on"
            )
        self.emulator.wait_idle(PATIENCE)


def depth_of(emulator: Emulator) -> int:
    return sum(queue.depth for queue in emulator.queues())


@pytest.fixture(scope="module")
def emulator() -> Iterator[tuple[Emulator, int]]:
    with (
        reserved_port() as port,
        Emulator(target=f"http://127.0.0.1:{port}", queues=QUEUES) as emulator,
    ):
        yield emulator, port


@pytest.fixture
def site(emulator: tuple[Emulator, int], committed: None) -> Iterator[Site]:
    site = Site(*emulator)
    site.emulator.reset()
    yield site
    site.stop()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that no other process gets: it is bound here and never listened on.

    A server that asks for SO_REUSEPORT can share it. Until then, it refuses.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
