"""Dispatches the due tasks: timers, requests in flight, and their consequences."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import Future

from cloudtask.emulator.calls import State
from cloudtask.emulator.dispatch.chaos import Chaos, Mischief, plan
from cloudtask.emulator.dispatch.client import HttpClient
from cloudtask.emulator.dispatch.log import DispatchLog, DispatchRecord
from cloudtask.emulator.dispatch.request import Outgoing, Target, Tokens, outgoing
from cloudtask.emulator.queues import Dispatch, Queue, Response, Task, Verdict

_LONGEST_SLEEP = 60.0
"""Seconds after which a queue is looked at again: the wall clock may have been set."""

_LAZY = 0.01
"""Seconds for which the outcome of an attempt may stay uncommitted."""

_CALM = Mischief()


class Dispatcher:
    """Dispatches the due tasks of all queues; lives in one event loop."""

    def __init__(
        self,
        state: State,
        *,
        target: Target,
        tokens: Tokens,
        log: DispatchLog,
        chaos: Chaos | None = None,
    ) -> None:
        self._state = state
        self._target = target
        self._tokens = tokens
        self._log = log
        self._chaos = chaos
        self._dice = random.Random(chaos.seed if chaos else None)
        self._shuffle = self._dice if chaos and chaos.reorder else None
        self._loop = asyncio.get_running_loop()
        self._client = HttpClient()
        self._soon: set[Queue] = set()
        self._timers: dict[Queue, asyncio.TimerHandle] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._thread = threading.get_ident()
        self._flusher: asyncio.TimerHandle | None = None
        state.on_change = self.wake
        state.on_force = self.force

    def wake(self, queue: Queue) -> None:
        """Look at the queue as soon as the loop is free; from any thread."""
        if queue.paused or queue in self._soon or self._stopped:
            return
        self._soon.add(queue)
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._pump, queue)
        else:
            self._loop.call_soon_threadsafe(self._pump, queue)

    def force(self, queue: Queue, dispatch: Dispatch, port: int | None) -> Future[None]:
        """Deliver RunTask's dispatch, from any thread; done when it has ended."""
        delivery = self._tracked(self._deliver(queue, dispatch, port))
        return asyncio.run_coroutine_threadsafe(delivery, self._loop)

    @property
    def in_flight(self) -> int:
        """Requests under way, delayed ones and chaos's duplicates included."""
        return len(self._in_flight)

    async def stop(self) -> None:
        """Abandon the requests in flight; with a journal they are made again later."""
        self._stopped = True
        for timer in (*self._timers.values(), self._flusher):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
        await self.abandon()
        self._client.close()

    async def abandon(self) -> None:
        """Cancel the requests in flight and wait until they are gone."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    def _pump(self, queue: Queue) -> None:
        with self._state.lock:
            self._dispatch_due(queue)

    def _dispatch_due(self, queue: Queue) -> None:
        self._soon.discard(queue)
        timer = self._timers.pop(queue, None)
        if timer is not None:
            timer.cancel()
        # A queue that was deleted and created anew has the same name.
        if self._stopped or self._state.queues.get(queue.name) is not queue:
            return
        clock = self._state.clock
        while (dispatch := queue.take(clock(), self._shuffle)) is not None:
            self._launch(self._deliver(queue, dispatch, None))
        delay = queue.delay(clock())
        if delay is not None:
            wait = min(delay, _LONGEST_SLEEP)
            self._timers[queue] = self._loop.call_later(wait, self._pump, queue)

    async def _tracked(self, delivery: Coroutine[None, None, None]) -> None:
        await self._launch(delivery)

    def _launch(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        return task

    async def _deliver(
        self, queue: Queue, dispatch: Dispatch, port: int | None
    ) -> None:
        mischief = plan(self._chaos, self._dice) if self._chaos else _CALM
        if mischief.delay:
            await asyncio.sleep(mischief.delay)
        try:
            request = outgoing(
                queue, dispatch, target=self._target, tokens=self._tokens, port=port
            )
        except Exception as error:  # noqa: BLE001 - a failed attempt like any other
            # For example a URL that the API accepts but that can't be called.
            self._conclude(queue, dispatch, None, Response(None, None, str(error)))
            return
        if mischief.duplicate_after is not None:
            self._launch(self._repeat(dispatch, request, mischief.duplicate_after))
        response = await self._client.send(request)
        if mischief.drops_response:
            response = Response(None, None, f"chaos dropped {response.status}")
        self._conclude(queue, dispatch, request, response)

    async def _repeat(
        self, dispatch: Dispatch, request: Outgoing, after: float
    ) -> None:
        await asyncio.sleep(after)
        started = self._state.clock()
        response = await self._client.send(request)
        self._note(dispatch, request, response, "duplicate", started)

    def _conclude(
        self,
        queue: Queue,
        dispatch: Dispatch,
        request: Outgoing | None,
        response: Response,
    ) -> None:
        state, task = self._state, dispatch.task
        with state.lock:
            now = state.clock()
            verdict = queue.finish(dispatch, response, now=now)
            next_in = task.eta - now if verdict is Verdict.RETRY else None
            self._report(queue, task, verdict)
            self.wake(queue)
        started = dispatch.dispatch_time
        self._note(dispatch, request, response, verdict.value, started, next_in)

    def _report(self, queue: Queue, task: Task, verdict: Verdict) -> None:
        """Tell the journal. No caller waits for this change, so the flush may wait."""
        journal = self._state.journal
        if verdict is Verdict.RETRY:
            journal.put_attempt(queue, task)
        elif verdict is not Verdict.GONE:
            journal.drop_task(queue, task.id)
        if journal.durable and self._flusher is None:
            self._flusher = self._loop.call_later(_LAZY, self._flush)

    def _flush(self) -> None:
        self._flusher = None
        with self._state.lock:
            self._state.journal.flush()

    def _note(
        self,
        dispatch: Dispatch,
        request: Outgoing | None,
        response: Response,
        verdict: str,
        started: float,
        next_in: float | None = None,
    ) -> None:
        self._log.add(
            DispatchRecord(
                task=dispatch.task.name,
                attempt=dispatch.number,
                method=request.method if request else "",
                url=request.url if request else "",
                headers=request.headers if request else {},
                status=response.status,
                verdict=verdict,
                started=started,
                duration=self._state.clock() - started,
                problem=response.problem,
                outcome=response.outcome,
                next_in=next_in,
            )
        )
