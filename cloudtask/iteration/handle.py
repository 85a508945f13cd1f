"""The handle of a run: what the caller of `iterate()` gets, and the callback sees."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TextIO

from cloudtask import clock
from cloudtask.discretion import discreet
from cloudtask.iteration import control, requests, retrying, running
from cloudtask.runs import ENDED, RowFailure, Run, RunState, Shard, ShardState
from cloudtask.stores import store

POLL = 0.5  # seconds between two looks of `wait()`
BAR = 30  # characters


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `total` is the planner's, an estimate on large tables; `rate`
    is rows per second since the start, `remaining` the time left at that rate."""

    done: int
    failed: int
    skipped: int
    total: int
    fraction: float
    rate: float
    remaining: timedelta | None

    def __str__(self) -> str:
        left = "" if self.remaining is None else f", {self.remaining} left"
        return (
            f"{self.done + self.failed + self.skipped:,} of {self.total:,} "
            f"({self.fraction:.0%}), {self.rate:,.0f}/s{left}"
        )


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What one shard did."""

    index: int
    state: ShardState
    expected: int
    done: int
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class IterationReport:
    """What a run did; finalize may read it."""

    done: int
    failed: int
    skipped: int
    started: datetime | None
    finished: datetime | None
    shards: tuple[ShardReport, ...]


class Iteration:
    """A run of `fn.iterate()`.

    `state` and what else it shows are as they were at the last `refresh()`, which every
    method does.
    """

    def __init__(self, run_id: str, run: Run | None = None) -> None:
        self.id = run_id
        self._run = run
        self._gone = False
        self._last: Progress | None = None

    def __repr__(self) -> str:
        return f"<Iteration {self.id} {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iteration) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @discreet
    def refresh(self) -> Iteration:
        """Read the run again; returns self."""
        run = store().load_run(self.id)
        # A run without keep=True is deleted once finalize is through.
        self._gone = run is None
        self._run = run or self._run
        return self

    @property
    def state(self) -> RunState:
        """Where the run stands; FINISHED when its rows are gone."""
        if self._run is None and not self._gone:
            self.refresh()
        if self._gone or self._run is None:
            return RunState.FINISHED
        return self._run.state

    @property
    def task(self) -> str | None:
        """The import path of the callback."""
        return self._run.task if self._run else None

    @property
    def error(self) -> str:
        """Why the run waits, is paused or has failed; empty when nothing is wrong."""
        if self._run is None:
            return ""
        return "\n".join(filter(None, (self._run.error, self._run.waiting)))

    @discreet
    def progress(self) -> Progress:
        """How far the run is now; after its rows are gone, how far it last was seen."""
        self.refresh()
        if self._gone or self._run is None:
            return _completed(self._last or Progress(0, 0, 0, 0, 1.0, 0.0, None))
        self._last = _progress(self._run, store().load_shards(self.id))
        return self._last

    @discreet
    def report(self) -> IterationReport:
        """What the run did, shard by shard."""
        self.refresh()
        shards = store().load_shards(self.id)
        run = self._run
        return IterationReport(
            done=sum(shard.done for shard in shards),
            failed=sum(shard.failed for shard in shards),
            skipped=sum(shard.skipped for shard in shards),
            started=run.started_at if run else None,
            finished=run.finished_at if run else None,
            shards=tuple(
                ShardReport(s.index, s.state, s.expected, s.done, s.failed, s.skipped)
                for s in shards
            ),
        )

    @discreet
    def failures(self, limit: int = 1000) -> list[RowFailure]:
        """The rows that raised and were not yet done by a later try."""
        return store().load_failures(self.id, limit=limit)

    @discreet
    def pause(self) -> None:
        """Let shards stop at their next checkpoint; raises CloudTaskError when the run
        has ended, or finalizes."""
        self._ask(control.pause)

    def _ask(self, change: Callable[[str], None]) -> None:
        """Change the run now, or after the transaction of the page that asks."""
        if not requests.later(self.id, partial(change, self.id)):
            change(self.id)
        self.refresh()

    @discreet
    def resume(self, queryset: Any = None) -> None:
        """Go on after a pause or a failure; `queryset` replaces one that the running
        version can't read. Raises CloudTaskError in any other state."""
        control.resume(self.id, queryset)
        self.refresh()

    @discreet
    def cancel(self) -> None:
        """Stop for good; `on_failure` runs instead of finalize. Raises CloudTaskError
        when the run has ended, or finalizes."""
        self._ask(control.cancel)

    @discreet
    def retry_failures(self) -> int:
        """Try the rows again that were given up or skipped; how many.

        A run that is RUNNING is paused until its shards at work have stopped, then it
        goes on. Finalize does not run a second time. Raises CloudTaskError when the run
        has ended otherwise than FINISHED, or finalizes.
        """
        retry = partial(retrying.retry_failures, self.id)
        if requests.later(self.id, retry):
            return store().count_failures(self.id, given_up=True)
        count = retry()
        self.refresh()
        return count

    @discreet
    def wait(
        self,
        timeout: timedelta | float | None = None,
        *,
        progress_bar: bool = False,
        file: TextIO | None = None,
    ) -> Iteration:
        """Block until the run has ended; returns self.

        `timeout` is a timedelta or seconds; raises TimeoutError after it. With
        `progress_bar` a bar is drawn on `file`, by default standard error.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        stop = None if seconds is None else time.monotonic() + seconds
        out = file or sys.stderr
        while self.refresh().state not in ENDED:
            if progress_bar:
                out.write(f"\r{_bar(self.progress())}")
                out.flush()
            if stop is not None and time.monotonic() >= stop:
                raise TimeoutError(
                    f"Iteration {self.id} is still {self.state}: {self.progress()}"
                )
            time.sleep(POLL)
        if progress_bar:
            out.write(f"\r{_bar(self.progress())}\n")
        return self


def _progress(run: Run, shards: list[Shard]) -> Progress:
    done = sum(shard.done for shard in shards)
    failed = sum(shard.failed for shard in shards)
    skipped = sum(shard.skipped for shard in shards)
    settled = done + failed + skipped
    has_all = run.state in (RunState.FINISHED, RunState.FINALIZING)
    total = sum(map(_size, shards))
    fraction = settled / total if total else float(has_all)
    rate = _rate(run, settled)
    remaining = timedelta(seconds=round((total - settled) / rate)) if rate else None
    return Progress(done, failed, skipped, total, fraction, rate, remaining)


def _completed(last: Progress) -> Progress:
    """Of a run whose rows are gone, for it has come to its end without failures."""
    done = max(last.done, last.total - last.failed - last.skipped)
    return replace(last, done=done, fraction=1.0, remaining=timedelta(0))


def _size(shard: Shard) -> int:
    """Rows of a shard: as the plan estimates them, until it has come to its end."""
    settled = shard.done + shard.failed + shard.skipped
    if shard.state is ShardState.DONE:
        return settled
    return max(shard.expected, settled)


def _rate(run: Run, settled: int) -> float:
    if run.started_at is None:
        return 0.0
    is_over = run.state in ENDED and run.finished_at is not None
    end = run.finished_at.timestamp() if is_over and run.finished_at else clock.now()
    return settled / max(end - run.started_at.timestamp(), 0.001)


def _bar(progress: Progress) -> str:
    filled = int(BAR * progress.fraction)
    return f"[{'#' * filled}{' ' * (BAR - filled)}] {progress}"


running.handle_of = lambda run: Iteration(run.id, run)
