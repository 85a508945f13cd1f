"""Runs the server in a thread of this process, for tests and scripts: `Emulator`."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from google.cloud import tasks_v2

from cloudtask.emulator.dispatch import Chaos, DispatchRecord, Tick, parse_chaos
from cloudtask.emulator.options import (
    DEFAULT_TARGET,
    Options,
    Queues,
    Settings,
    declare,
    read_options,
)
from cloudtask.emulator.queues import FULL, view
from cloudtask.emulator.serving import Engine, Server
from cloudtask.emulator.tokens import load_key

T = TypeVar("T")

DEFAULT_QUEUES = ("projects/p/locations/l/queues/default",)
_STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue at the moment of the call: tasks held and requests under way."""

    name: str
    paused: bool
    depth: int
    running: int
    rate: float
    next_eta: float | None


class Emulator:
    """A local Cloud Tasks beside the code under test.

    Options, all but the ports kept for every `start`:

    * `port`, `http_port`: 0 is any free one; see `address` and `http_address`.
    * `target`: base URL for App Engine tasks; `services` maps some services elsewhere.
    * `queues`: names, (name, options) pairs, or a mapping of names to options such as
      `{"mail": {"rate": "50/s", "backoff": "1s..10m"}}`; a name without slashes is
      an id in `project` and `location`.
    * `rate_limits`: False dispatches as fast as the target answers.
    * `data`: an SQLite file in which queued tasks outlive the process.
    * `chaos`: a `Chaos` or its text, such as "duplicate=0.1,reorder"; `seed` repeats
      it.
    * `projects`: the only ones that may be named; all by default.
    * `issuer`: of OIDC tokens; the HTTP address by default.
    * `token_key`: the private RSA key (PEM) that signs them; one of its own by default.
    * `tick`: a URL, or a `Tick` with headers and account, to call at each full minute.
    * `queue_defaults`: options of every queue that doesn't set them itself, such as
      {"max_attempts": 5, "tombstone": "1h"}.
    * `queue_tombstone`: seconds for which the name of a deleted queue stays taken.
    * `on_dispatch`: called with each `DispatchRecord`, in the emulator's thread.

    Wrong options raise `ValueError`, a taken port `OSError` in `start`.
    """

    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _server: Server | None = None
    _stopping: asyncio.Event | None = None

    def __init__(
        self,
        port: int = 0,
        target: str = DEFAULT_TARGET,
        queues: Queues = DEFAULT_QUEUES,
        rate_limits: bool = True,
        data: str | Path | None = None,
        *,
        http_port: int = 0,
        host: str = "127.0.0.1",
        project: str = "p",
        location: str = "l",
        services: Mapping[str, str] | None = None,
        chaos: Chaos | str | None = None,
        seed: int | None = None,
        projects: Collection[str] | None = None,
        issuer: str = "",
        token_key: bytes | None = None,
        tick: Tick | str | None = None,
        allow_remote: bool = False,
        queue_defaults: Options | None = None,
        queue_tombstone: float = 3 * 86_400.0,
        on_dispatch: Callable[[DispatchRecord], None] | None = None,
    ) -> None:
        if token_key is not None:
            load_key(token_key)
        defaults = read_options("defaults", queue_defaults or {}).config
        self._settings = Settings(
            host=host,
            port=port,
            http_port=http_port,
            target=target,
            services=dict(services or {}),
            queues=declare(
                queues, project=project, location=location, defaults=defaults
            ),
            rate_limits=rate_limits,
            data=None if data is None else Path(data),
            chaos=_chaos(chaos, seed),
            projects=projects,
            issuer=issuer,
            token_key=token_key,
            tick=Tick(url=tick) if isinstance(tick, str) else tick,
            allow_remote=allow_remote,
            queue_defaults=defaults,
            queue_tombstone=queue_tombstone,
            listener=on_dispatch,
        )

    # Starting and stopping.

    def start(self) -> Self:
        """Serve; returns when both ports answer. Started already, it does nothing."""
        if self._thread is not None:
            return self
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="cloudtask-emulator", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join(_STOP_TIMEOUT)
            self._forget()
            raise
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Close the ports and end the thread; not started, it does nothing."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        atexit.unregister(self.stop)
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_TIMEOUT)
        self._forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """ "host:port" of the gRPC API, for `CLOUD_TASKS_EMULATOR_HOST`."""
        return self._started().engine.address

    @property
    def http_address(self) -> str:
        """ "http://host:port" of the status page and the token certificates."""
        return self._started().engine.http_address

    # For the assertions of tests.

    def reset(self) -> None:
        """Forget all tasks, names, logs and queues but the declared ones."""
        self._await(self._started().engine.reset())

    def wait_idle(self, timeout: float = 10.0, *, scheduled: bool = False) -> None:
        """Wait until nothing is running, due, or waiting for another attempt.

        Tasks scheduled for later and never attempted are waited for only if
        `scheduled`; those in paused queues never. `TimeoutError` after `timeout`
        seconds.
        """
        engine = self._started().engine
        waiting = asyncio.wait_for(
            engine.wait_idle(include_scheduled=scheduled), timeout
        )
        try:
            self._await(waiting)
        except TimeoutError:
            depths = {info.name: info.depth for info in self.queues()}
            raise TimeoutError(
                f"The emulator is not idle after {timeout:g} s; tasks left: {depths}."
            ) from None

    def queues(self) -> list[QueueInfo]:
        """All queues, by name."""
        return self._ask(_queues)

    def tasks(self, queue: str | None = None) -> list[tasks_v2.Task]:
        """The tasks that wait or run, of one queue (id or full name) or of all."""
        return self._ask(lambda engine: _tasks(engine, queue))

    def dispatches(self, task: str | None = None) -> list[DispatchRecord]:
        """The last 10,000 requests, of one task (id or full name) or of all."""
        return self._ask(
            lambda engine: [
                record
                for record in engine.log.records
                if task is None or task in (record.task, record.task_id)
            ]
        )

    def _run(self, started: Future[None]) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve(started))

    async def _serve(self, started: Future[None]) -> None:
        self._stopping = asyncio.Event()
        try:
            server = Server(self._settings)
            await server.start()
        except BaseException as error:  # noqa: BLE001 - raised in the other thread
            started.set_exception(error)
            return
        self._server = server
        started.set_result(None)
        await self._stopping.wait()
        await server.stop()

    def _started(self) -> Server:
        if self._server is None:
            raise RuntimeError("The emulator is not started.")
        return self._server

    def _ask(self, question: Callable[[Engine], T]) -> T:
        engine = self._started().engine

        async def ask() -> T:
            with engine.state.lock:
                return question(engine)

        return self._await(ask())

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None  # noqa: S101 - started
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _forget(self) -> None:
        self._thread = self._loop = self._server = self._stopping = None


def _chaos(chaos: Chaos | str | None, seed: int | None) -> Chaos | None:
    if isinstance(chaos, str):
        chaos = parse_chaos(chaos)
    if chaos is not None and seed is not None:
        return replace(chaos, seed=seed)
    return chaos


def _queues(engine: Engine) -> list[QueueInfo]:
    return [
        QueueInfo(
            name=queue.name,
            paused=queue.paused,
            depth=len(queue.tasks),
            running=queue.running,
            rate=queue.config.rate,
            next_eta=queue.next_eta(),
        )
        for _, queue in sorted(engine.state.queues.items())
    ]


def _tasks(engine: Engine, queue_name: str | None) -> list[tasks_v2.Task]:
    return [
        tasks_v2.Task.wrap(view(task, FULL))
        for queue in engine.state.queues.values()
        if queue_name in (None, queue.id, queue.name)
        for task in queue.tasks.values()
    ]
