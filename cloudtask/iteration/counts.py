"""Computes progress and reports from the row of a run and its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cloudtask import clock
from cloudtask.runs import (
    ENDED,
    IterationReport,
    Progress,
    Run,
    RunState,
    Shard,
    ShardReport,
    ShardState,
)

HAS_ALL = (RunState.FINALIZING, RunState.FINISHED)


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
