"""Defines the handle of a run: `iterate()` returns it; `current().iteration` is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from typing import Any, ParamSpec, TextIO, TypeVar

from asgiref.sync import sync_to_async

from cloudtask import stores
from cloudtask.asynchrony import synchronous
from cloudtask.discretion import discreet
from cloudtask.iteration import control, stopping
from cloudtask.iteration.wait import POLL, Waiting
from cloudtask.progress import progress_of, report_of
from cloudtask.runs import (
    ENDED,
    IterationReport,
    Progress,
    RowFailure,
    Run,
    RunState,
    Shard,
)

P = ParamSpec("P")
R = TypeVar("R")

AWAITED = {"wait": "await_end"}  # not "a" and the name, as all others


def _verb(method: Callable[P, R]) -> Callable[P, R]:
    """A method of the handle: its errors show no locals, and in asynchronous code they
    name the method to await."""
    name = method.__name__

    @wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with synchronous("run", name, AWAITED.get(name)):
            return method(*args, **kwargs)

    return discreet(called)


class Iteration:
    """A run of `fn.iterate()` or `fn.map()`.

    Everything that it shows is read from the store when it is asked for. Asynchronous
    code awaits the methods whose names begin with "a", and `await_end()`.
    """

    def __init__(self, run_id: str, run: Run | None = None) -> None:
        self.id = run_id
        self._run = run
        self._is_missing = False

    def __repr__(self) -> str:
        return f"<Iteration {self.id} {self._state or 'not loaded'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iteration) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @_verb
    def refresh(self) -> Iteration:
        """Read the run again; returns self."""
        run = stores.store().load_run(self.id)
        self._is_missing = run is None
        self._run = run or self._run
        return self

    @property
    def _state(self) -> RunState | None:
        """The state as it was when the run was last read."""
        state = self._run.state if self._run else None
        # A run that has ended is pruned after a while; it stays what it was.
        if self._is_missing and state not in ENDED:
            return RunState.ROLLED_BACK
        return state

    @property
    @_verb
    def state(self) -> RunState:
        """Where the run stands. ROLLED_BACK if the transaction of `iterate()` was
        rolled back, so that there is no run."""
        self.refresh()
        return self._state or RunState.ROLLED_BACK

    @property
    @_verb
    def task(self) -> str | None:
        """The import path of the callback."""
        if self._run is None:
            self.refresh()
        return self._run.task if self._run else None

    @property
    @_verb
    def error(self) -> str:
        """Why the run waits, is paused or has failed, or is slowed down by workers that
        are killed; empty if nothing is wrong."""
        run = self.refresh()._run
        if run is None:
            return ""
        return "\n".join(filter(None, (run.error, run.waiting, _slowed(run))))

    def _read(self) -> tuple[Run, list[Shard]]:
        """The run and its shards; raises LookupError if there is no such run."""
        run = self.refresh()._run
        if run is None or (self._is_missing and not run.is_summary):
            raise LookupError(
                f"There is no iteration {self.id}: its transaction was rolled back, or "
                "it ended long ago and was pruned."
            )
        return run, [] if run.is_summary else stores.store().load_shards(self.id)

    @_verb
    def progress(self) -> Progress:
        """How far the run is. Raises LookupError if there is no such run."""
        return progress_of(*self._read())

    @_verb
    def report(self) -> IterationReport:
        """The run's counts, shard by shard. Raises LookupError if there is no such
        run."""
        return report_of(*self._read())

    @_verb
    def failures(self, limit: int = 1000) -> list[RowFailure]:
        """The rows that raised an error and have not succeeded since, with tracebacks.
        Raises LookupError if there is no such run."""
        self._read()
        return stores.store().load_failures(self.id, limit=limit)

    @_verb
    def pause(self) -> None:
        """Let shards stop at their next checkpoint. Raises CloudTaskError if the run
        has ended or finalizes."""
        self._ask(control.pause)

    def _ask(self, change: Callable[[str], object]) -> bool:
        """Change the run now; False if it is changed after the transaction of the page
        whose callback asks."""
        is_done = stopping.ask(self.id, partial(change, self.id))
        self.refresh()
        return is_done

    @_verb
    def resume(self, queryset: Any = None) -> None:
        """Go on after a pause or a failure. `queryset` replaces one that the running
        version can't read. Raises CloudTaskError in any other state."""
        control.resume(self.id, queryset)
        self.refresh()

    @_verb
    def cancel(self) -> None:
        """Stop for good; `on_failure` runs instead of finalize. Raises CloudTaskError
        if the run has ended or finalizes."""
        self._ask(control.cancel)

    @_verb
    def retry_failures(self) -> int:
        """Try the rows again that have failed or were skipped; returns how many.

        A run that is RUNNING is paused until its shards at work have stopped, then it
        goes on. Finalize does not run a second time. Raises CloudTaskError if the run
        has ended otherwise than FINISHED, or finalizes.
        """
        counts: list[int] = []

        def change(run_id: str) -> None:
            counts.append(control.retry_failures(run_id))

        if self._ask(change):
            return counts[0]
        return stores.store().count_failures(self.id, given_up=True)

    @_verb
    def discard_failures(self) -> int:
        """Delete the rows that have failed or were skipped, with their tracebacks;
        returns how many.

        They can't be retried then, and no command or metric counts them as failed any
        more. The counts of the run stay. Raises CloudTaskError if there is no such run.
        """
        return control.discard_failures(self.id)

    @_verb
    def wait(
        self,
        timeout: timedelta | float | None = None,
        *,
        progress_bar: bool = False,
        file: TextIO | None = None,
    ) -> Iteration:
        """Block until the run has ended; returns self.

        `timeout` is a timedelta or seconds; raises TimeoutError after it. With
        `progress_bar` a bar is drawn on `file`, by default standard error. Raises
        CloudTaskError if there is no timeout and tasks stay in the memory of a test.
        """
        waiting = Waiting(self, timeout, progress_bar, file)
        while not waiting.is_over():
            time.sleep(POLL)
        return self

    # Asynchronous code. Each does what the method without the "a" does.

    @discreet
    async def arefresh(self) -> Iteration:
        """As `refresh`, for asynchronous code."""
        return await sync_to_async(self.refresh)()

    @discreet
    async def astate(self) -> RunState:
        """As `state`, for asynchronous code."""
        return await sync_to_async(lambda: self.state)()

    @discreet
    async def atask(self) -> str | None:
        """As `task`, for asynchronous code."""
        return await sync_to_async(lambda: self.task)()

    @discreet
    async def aerror(self) -> str:
        """As `error`, for asynchronous code."""
        return await sync_to_async(lambda: self.error)()

    @discreet
    async def aprogress(self) -> Progress:
        """As `progress`, for asynchronous code."""
        return await sync_to_async(self.progress)()

    @discreet
    async def areport(self) -> IterationReport:
        """As `report`, for asynchronous code."""
        return await sync_to_async(self.report)()

    @discreet
    async def afailures(self, limit: int = 1000) -> list[RowFailure]:
        """As `failures`, for asynchronous code."""
        return await sync_to_async(self.failures)(limit)

    @discreet
    async def apause(self) -> None:
        """As `pause`, for asynchronous code."""
        await sync_to_async(self.pause)()

    @discreet
    async def aresume(self, queryset: Any = None) -> None:
        """As `resume`, for asynchronous code."""
        await sync_to_async(self.resume)(queryset)

    @discreet
    async def acancel(self) -> None:
        """As `cancel`, for asynchronous code."""
        await sync_to_async(self.cancel)()

    @discreet
    async def aretry_failures(self) -> int:
        """As `retry_failures`, for asynchronous code."""
        return await sync_to_async(self.retry_failures)()

    @discreet
    async def adiscard_failures(self) -> int:
        """As `discard_failures`, for asynchronous code."""
        return await sync_to_async(self.discard_failures)()

    @discreet
    async def await_end(
        self,
        timeout: timedelta | float | None = None,
        *,
        progress_bar: bool = False,
        file: TextIO | None = None,
    ) -> Iteration:
        """As `wait`, for asynchronous code, whose other work goes on meanwhile."""
        waiting = Waiting(self, timeout, progress_bar, file)
        while not await sync_to_async(waiting.is_over)():
            await asyncio.sleep(POLL)
        return self


def _slowed(run: Run) -> str:
    """A sentence for a run whose workers are killed: the effect and the remedy."""
    if run.leg_limit is None or run.state in ENDED:
        return ""
    after = f"{run.killed_after or 0:.0f} s after it had begun a part of this run"
    return (
        f"A worker was killed about {after}. Each part takes {run.leg_limit:.0f} s at "
        "most now. If the server ends requests that take long, raise its limit "
        "(gunicorn: --timeout; Cloud Run: --timeout) above the timeout of the task, or "
        "give the task a shorter timeout. Otherwise look for a lack of memory."
    )
