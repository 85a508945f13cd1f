"""Holds the parts behind both ports: state, journal, tokens, dispatcher and log."""

from __future__ import annotations

import asyncio

from cloudtask.emulator.calls import Journal, State
from cloudtask.emulator.dispatch import Dispatcher, DispatchLog, Target, Ticker
from cloudtask.emulator.journal import SqliteJournal
from cloudtask.emulator.options import Settings
from cloudtask.emulator.queues import Queue
from cloudtask.emulator.tokens import SigningKey, TokenMaker

_HOUSEKEEPING = 600.0
_POLL = 0.005


class Engine:
    """Made, started and stopped once, inside a running event loop.

    The server writes `address` and `http_address` when it has bound the ports.
    """

    dispatcher: Dispatcher

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ""
        self.http_address = ""
        self.log = DispatchLog(settings.listener)
        self._file = SqliteJournal(settings.data) if settings.data else None
        self.state = State(
            self._file or Journal(),
            rate_limits=settings.rate_limits,
            defaults=settings.queue_defaults,
            queue_tombstone=settings.queue_tombstone,
            projects=settings.projects,
            plain_tokens=settings.allow_remote,
        )
        pem = settings.token_key or (self._file.key() if self._file else None)
        self.tokens = TokenMaker(
            SigningKey(pem, on_new=self._keep_key),
            lambda: self.issuer,
            self.state.clock,
        )

    @property
    def issuer(self) -> str:
        """The issuer of OIDC tokens."""
        return self.settings.issuer or self.http_address

    def load(self) -> None:
        """Load the data file, and make the declared queues."""
        if self._file:
            self._file.load(self.state)
        self._declare()

    def start(self) -> None:
        """Dispatch the tasks that are due, from now on."""
        self.dispatcher = Dispatcher(
            self.state,
            target=Target(self.settings.target, self.settings.services),
            tokens=self.tokens,
            log=self.log,
            chaos=self.settings.chaos,
        )
        with self.state.lock:
            for queue in self.state.queues.values():
                self.dispatcher.wake(queue)

    async def stop(self) -> None:
        """Abandon the requests in flight."""
        await self.dispatcher.stop()

    async def close(self) -> None:
        """Write the last changes to the data file."""
        self.state.journal.close()

    async def tick(self) -> None:
        """Call the URL of `Settings.tick` each minute, until cancelled."""
        if self.settings.tick is not None:
            ticker = Ticker(
                self.settings.tick,
                tokens=self.tokens,
                log=self.log,
                clock=self.state.clock,
            )
            await ticker.run()

    async def keep_house(self) -> None:
        """Delete expired tasks from time to time, until cancelled."""
        while True:
            with self.state.lock:
                self.state.drop_expired()
                self.state.journal.flush()
            await asyncio.sleep(_HOUSEKEEPING)

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
        if self._file is None:
            return
        with self.state.lock:
            self._file.put_key(pem)
            self._file.flush()

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


def _is_busy(queue: Queue, now: float, include_scheduled: bool) -> bool:
    if queue.paused:
        return False
    if include_scheduled:
        return bool(queue.tasks)
    return any(task.eta <= now or task.dispatch_count for task in queue.tasks.values())
