"""Computes progress and reports from the row of a run and its shards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cloudtask import clock
from cloudtask.runs import (
    ENDED,
    STOPPED,
    IterationReport,
    Progress,
    Run,
    RunState,
    Shard,
    ShardReport,
    ShardSums,
)

HAS_ALL = (RunState.FINALIZING, RunState.FINISHED)


def _sums(run: Run, shards: Sequence[Shard]) -> ShardSums:
    return sums_of(run, ShardSums.of(shards))


def sums_of(run: Run, sums: ShardSums | None) -> ShardSums:
    """The counts of a run: those of its row if it has no shards any more."""
    if not run.is_summary:
        return sums or ShardSums()
    return ShardSums(done=run.done, failed=run.failed, skipped=run.skipped)


def progress_of(run: Run, shards: Sequence[Shard]) -> Progress:
    """How far a run is, by its row and its shards."""
    return progress_by(run, _sums(run, shards))


def progress_by(run: Run, counts: ShardSums) -> Progress:
    """How far a run is, by its row and the counts of its shards."""
    has_all = run.state in HAS_ALL
    settled = counts.done + counts.failed + counts.skipped
    total = settled if has_all else counts.size
    fraction = settled / total if total else float(has_all)
    rate = _rate(run, settled)
    return Progress(
        counts.done,
        counts.failed,
        counts.skipped,
        total,
        fraction,
        rate,
        _remaining(run, total - settled, rate),
        is_estimated=not has_all and (run.is_estimated or not run.is_planned),
    )


def _rate(run: Run, settled: int) -> float:
    if run.started_at is None:
        return 0.0
    is_over = run.state in ENDED and run.finished_at is not None
    end = run.finished_at.timestamp() if is_over and run.finished_at else clock.now()
    return settled / max(end - run.started_at.timestamp(), 0.001)


def _remaining(run: Run, rows: int, rate: float) -> timedelta | None:
    """The time that is left; None if no row was called yet, or while none is called."""
    is_stopped = run.state in (RunState.PAUSED, RunState.FAILED, *STOPPED)
    return None if is_stopped or not rate else timedelta(seconds=round(rows / rate))


def report_of(run: Run, shards: Sequence[Shard]) -> IterationReport:
    """The report of a run, from its row and its shards."""
    counts = _sums(run, shards)
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
