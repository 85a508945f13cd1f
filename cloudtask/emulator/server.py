"""The emulator as one asyncio program: gRPC, HTTP, dispatcher, journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from aiohttp import web as aiohttp_web

from cloudtask.emulator import rpc
from cloudtask.emulator.dispatch_log import DispatchLog
from cloudtask.emulator.dispatcher import Dispatcher
from cloudtask.emulator.journal import Journal, NoJournal
from cloudtask.emulator.outgoing import Target
from cloudtask.emulator.queue import Queue
from cloudtask.emulator.settings import Settings
from cloudtask.emulator.sqlite_journal import SqliteJournal
from cloudtask.emulator.state import State
from cloudtask.emulator.tokens import SigningKey, TokenMaker
from cloudtask.emulator.web import application

_HOUSEKEEPING = 600.0
_POLL = 0.005
# Two keep both sides of gRPC busy; more only fight for the interpreter's lock.
_GRPC_THREADS = 2
_WAITING_THREADS = 32
_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a shared one
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Server:
    """Started and stopped once, inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ""
        self.http_address = ""
        self.log = DispatchLog(settings.listener)
        journal, pem = _open_journal(settings)
        self.state = State(
            journal,
            rate_limits=settings.rate_limits,
            task_tombstone=settings.task_tombstone,
            queue_tombstone=settings.queue_tombstone,
            projects=settings.projects,
        )
        self.tokens = TokenMaker(
            SigningKey(pem, on_new=self._keep_key), self._issuer, self.state.clock
        )
        self._stops: list[Callable[[], Awaitable[object]]] = []
        self._pools = (
            ThreadPoolExecutor(_GRPC_THREADS, "cloudtask-emulator-grpc"),
            ThreadPoolExecutor(_WAITING_THREADS, "cloudtask-emulator-run"),
        )

    async def start(self) -> None:
        """Bind both ports and dispatch what is due; `OSError` when a port is taken."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        self._stops.append(self._close_journal)
        self.state.journal.load(self.state)
        self._declare()
        await self._start_http()
        self.dispatcher = Dispatcher(
            self.state,
            target=Target(settings.target, settings.services),
            tokens=self.tokens,
            log=self.log,
            chaos=settings.chaos,
        )
        self._stops.append(self.dispatcher.stop)
        await self._start_grpc()
        keeper = asyncio.get_running_loop().create_task(self._keep_house())
        self._stops.append(lambda: _cancelled(keeper))
        with self.state.lock:
            for queue in self.state.queues.values():
                self.dispatcher.wake(queue)

    async def stop(self) -> None:
        """Close the ports, abandon what is under way, write what must be kept."""
        while self._stops:
            await self._stops.pop()()

    def join(self) -> None:
        """Wait for the last threads, after `stop` and outside of the loop."""
        for pool in self._pools:
            pool.shutdown()

    async def reset(self) -> None:
        """Forget everything but the queues that were declared at the start."""
        await self.dispatcher.abandon()
        with self.state.lock:
            self.state.clear()
            self.log.clear()
            self._declare()
            self.state.journal.flush()

    def is_idle(self, *, include_scheduled: bool = False) -> bool:
        """Whether nothing is under way, due, or waiting for its next attempt.

        Paused queues are idle; tasks scheduled for later and never attempted count only
        with `include_scheduled`.
        """
        if self.dispatcher.in_flight:
            return False
        now = self.state.clock()
        with self.state.lock:
            return not any(
                _is_busy(queue, now, include_scheduled)
                for queue in self.state.queues.values()
            )

    async def wait_idle(self, *, include_scheduled: bool = False) -> None:
        while not self.is_idle(include_scheduled=include_scheduled):
            await asyncio.sleep(_POLL)

    def _keep_key(self, pem: bytes) -> None:
        with self.state.lock:
            self.state.journal.put_key(pem)
            self.state.journal.flush()

    def _issuer(self) -> str:
        return self.settings.issuer or self.http_address

    def _declare(self) -> None:
        state = self.state
        for name, declared in self.settings.queues.items():
            queue = state.queues.get(name)
            if queue is None:
                queue = state.open_queue(name, declared.config)
                queue.paused = declared.paused
            elif declared.has_options:
                queue.configure(declared.config, now=state.clock())
            state.journal.put_queue(queue)

    async def _start_http(self) -> None:
        runner = aiohttp_web.AppRunner(
            application(self), access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        self._stops.append(runner.cleanup)
        site = aiohttp_web.TCPSite(
            runner,
            self.settings.host,
            self.settings.http_port,
        )
        await site.start()
        port = runner.addresses[0][1]
        self.http_address = f"http://{_bracketed(self.settings.host)}:{port}"

    async def _start_grpc(self) -> None:
        pool, waiting = self._pools
        server = grpc.server(pool, options=_GRPC_OPTIONS)
        server.add_generic_rpc_handlers(rpc.handlers(self.state, waiting))
        host = _bracketed(self.settings.host)
        wanted = f"{host}:{self.settings.port}"
        try:
            port = server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise OSError(f"The address {wanted} can't be listened on.") from error
        server.start()
        self._stops.append(lambda: _stopped(server))
        self.address = f"{host}:{port}"

    async def _close_journal(self) -> None:
        self.state.journal.close()

    async def _keep_house(self) -> None:
        while True:
            with self.state.lock:
                self.state.drop_expired()
                self.state.journal.flush()
            await asyncio.sleep(_HOUSEKEEPING)


def _open_journal(settings: Settings) -> tuple[Journal, bytes | None]:
    if settings.data is None:
        return NoJournal(), None
    journal = SqliteJournal(settings.data, remember=settings.task_tombstone)
    return journal, journal.key()


async def _stopped(server: grpc.Server) -> None:
    # Not in a thread: at the end of the interpreter none can be started any more.
    stopped = server.stop(None)
    while not stopped.is_set():
        await asyncio.sleep(0.001)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _is_busy(queue: Queue, now: float, include_scheduled: bool) -> bool:
    if queue.paused:
        return False
    if include_scheduled:
        return bool(queue.tasks)
    return any(task.eta <= now or task.dispatch_count for task in queue.tasks.values())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
