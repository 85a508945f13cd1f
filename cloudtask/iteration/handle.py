"""The handle of a run, which `iterate()` returns and `current().iteration` is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TextIO

from cloudtask import clock, conf, stores
from cloudtask.discretion import discreet
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import control, stopping
from cloudtask.runs import (
    ENDED,
    IterationReport,
    Progress,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardReport,
    ShardState,
)

POLL = 0.5  # seconds between two looks of `wait()`
BAR = 30  # characters
HAS_ALL = (RunState.FINALIZING, RunState.FINISHED)


class Iteration:
    """A run of `fn.iterate()` or `fn.map()`.

    Everything that it shows is read from the store when it is asked for.
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

    @discreet
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
    def state(self) -> RunState:
        """Where the run stands. ROLLED_BACK if the transaction of `iterate()` was
        rolled back, so that there is no run."""
        self.refresh()
        return self._state or RunState.ROLLED_BACK

    @property
    def task(self) -> str | None:
        """The import path of the callback."""
        if self._run is None:
            self.refresh()
        return self._run.task if self._run else None

    @property
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

    @discreet
    def progress(self) -> Progress:
        """How far the run is. Raises LookupError if there is no such run."""
        return progress_of(*self._read())

    @discreet
    def report(self) -> IterationReport:
        """The run's counts, shard by shard. Raises LookupError if there is no such
        run."""
        return report_of(*self._read())

    @discreet
    def failures(self, limit: int = 1000) -> list[RowFailure]:
        """The rows that raised an error and have not succeeded since, with tracebacks.
        Raises LookupError if there is no such run."""
        self._read()
        return stores.store().load_failures(self.id, limit=limit)

    @discreet
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

    @discreet
    def resume(self, queryset: Any = None) -> None:
        """Go on after a pause or a failure. `queryset` replaces one that the running
        version can't read. Raises CloudTaskError in any other state."""
        control.resume(self.id, queryset)
        self.refresh()

    @discreet
    def cancel(self) -> None:
        """Stop for good; `on_failure` runs instead of finalize. Raises CloudTaskError
        if the run has ended or finalizes."""
        self._ask(control.cancel)

    @discreet
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
        `progress_bar` a bar is drawn on `file`, by default standard error. Raises
        CloudTaskError if there is no timeout and tasks stay in the memory of a test.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        stop = None if seconds is None else time.monotonic() + seconds
        out = file or sys.stderr
        while (state := self.state) not in (*ENDED, RunState.ROLLED_BACK):
            if progress_bar:
                out.write(f"\r{_bar(self.progress())}")
                out.flush()
            if stop is None:
                self._refuse_to_wait_for_ever()
            elif time.monotonic() >= stop:
                raise TimeoutError(
                    f"Iteration {self.id} is still {state}: {self.progress()}"
                )
            time.sleep(POLL)
        if progress_bar and state is not RunState.ROLLED_BACK:
            out.write(f"\r{_bar(self.progress())}\n")
        return self

    def _refuse_to_wait_for_ever(self) -> None:
        backend = conf.transport_options(conf.settings())["BACKEND"]
        if backend == conf.MEMORY_TRANSPORT:
            raise CloudTaskError(
                f"Iteration {self.id} would never end: its tasks stay in the memory of "
                "this process. Call cloudtask.testing.run_queued() to run them."
            )


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


def _bar(progress: Progress) -> str:
    filled = int(BAR * progress.fraction)
    return f"[{'#' * filled}{' ' * (BAR - filled)}] {progress}"


# Made of the row of a run and of its shards


@dataclass(frozen=True, slots=True)
class _Counts:
    done: int
    failed: int
    skipped: int

    @property
    def settled(self) -> int:
        return self.done + self.failed + self.skipped


def _counts(run: Run, shards: Sequence[Shard]) -> _Counts:
    if run.is_summary:
        return _Counts(run.done, run.failed, run.skipped)
    return _Counts(
        sum(shard.done for shard in shards),
        sum(shard.failed for shard in shards),
        sum(shard.skipped for shard in shards),
    )


def progress_of(run: Run, shards: Sequence[Shard]) -> Progress:
    """How far a run is, by its row and its shards."""
    counts = _counts(run, shards)
    has_all = run.state in HAS_ALL
    total = counts.settled if has_all else sum(map(_size, shards))
    fraction = counts.settled / total if total else float(has_all)
    rate = _rate(run, counts.settled)
    left = total - counts.settled
    return Progress(
        counts.done,
        counts.failed,
        counts.skipped,
        total,
        fraction,
        rate,
        timedelta(seconds=round(left / rate)) if rate else None,
        is_estimated=not has_all and (run.is_estimated or not run.is_planned),
    )


def _size(shard: Shard) -> int:
    """The rows of a shard: those of the plan, until the shard is DONE."""
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


def report_of(run: Run, shards: Sequence[Shard]) -> IterationReport:
    """The report of a run, from its row and its shards."""
    counts = _counts(run, shards)
    return IterationReport(
        done=counts.done,
        failed=counts.failed,
        skipped=counts.skipped,
        started=run.started_at,
        finished=run.finished_at,
        shards=tuple(
            ShardReport(s.index, s.state, s.expected, s.done, s.failed, s.skipped)
            for s in shards
        ),
    )
