"""Runs and shards of iterations: their records, their states, and what users see.

The two tables of transitions hold every change of state. A store changes a state only
as they allow, and docs/explanation/iteration-states.md is drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class RunState(StrEnum):
    """The state of a run."""

    WAITING = "waiting"  # created; planning has not begun
    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    ABORTED = "aborted"  # by on_error="abort"
    FAILED = "failed"  # what it walks can't be read, or finalize was given up
    # Of a handle only: the transaction that created the run was rolled back.
    ROLLED_BACK = "rolled_back"


class ShardState(StrEnum):
    """Where a shard stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class FailureState(StrEnum):
    """Where a row that raised stands."""

    WAITING = "waiting"  # to be tried again
    STOPPED = "stopped"  # it paused the run; resume() calls it again
    FAILED = "failed"  # given up or skipped
    KILLED = "killed"  # the worker was killed in its callback, again and again


RUN_TRANSITIONS: Mapping[RunState, tuple[RunState, ...]] = {
    RunState.WAITING: (RunState.PLANNING, RunState.PAUSED, RunState.CANCELLED),
    RunState.PLANNING: (
        RunState.RUNNING,
        RunState.PAUSED,
        RunState.CANCELLED,
        RunState.FAILED,
    ),
    RunState.RUNNING: (
        RunState.FINALIZING,
        RunState.PAUSED,
        RunState.CANCELLED,
        RunState.ABORTED,
        RunState.FAILED,
    ),
    RunState.PAUSED: (RunState.PLANNING, RunState.RUNNING, RunState.CANCELLED),
    RunState.FAILED: (RunState.PLANNING, RunState.RUNNING, RunState.CANCELLED),
    # FAILED: finalize was given up.
    RunState.FINALIZING: (RunState.FINISHED, RunState.FAILED),
    # Only by retry_failures(), which opens new work while nobody can finalize.
    RunState.FINISHED: (RunState.PAUSED,),
    # To themselves: when their on_failure task is done.
    RunState.CANCELLED: (RunState.CANCELLED,),
    RunState.ABORTED: (RunState.ABORTED,),
    RunState.ROLLED_BACK: (),
}
SHARD_TRANSITIONS: Mapping[ShardState, tuple[ShardState, ...]] = {
    ShardState.WAITING: (ShardState.RUNNING,),
    ShardState.RUNNING: (ShardState.RUNNING, ShardState.WAITING, ShardState.DONE),
    ShardState.DONE: (ShardState.WAITING,),  # only by retry_failures()
}
# Rows for which no other try is planned.
GIVEN_UP = (FailureState.FAILED, FailureState.KILLED)
MOST_DOUBLINGS = 6  # of the sweeper's patience
STOPPED = frozenset({RunState.CANCELLED, RunState.ABORTED})
ENDED = frozenset(
    {RunState.FINISHED, RunState.CANCELLED, RunState.ABORTED, RunState.FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One iteration. Keys are encoded by the codec; times are the store's own.

    `description` is a sealed value: what to walk and how. It may take megabytes.
    `options` are the options of its tasks, as JSON. `generation` numbers the tasks
    that plan or finalize the run. `fence` grows with each lease of the run. `part`
    counts the stored parts of the plan, and `rest` is where the planner goes on.
    `total` is the number of rows by the plan; `is_estimated` tells that the plan did
    not count them.

    `attempts` counts the calls of finalize, or of `on_failure`, in this state. `due_at`
    is the time of the next step: the plan or such a call. `error` is why the run is in
    its state, `waiting` what its next step waits for, or what its last one raised.

    While workers are killed, `leg_limit` is the longest time in seconds that a leg may
    take, and `killed_after` how long the latest killed leg had lived. A run with
    `is_summary` has no shards any more: `done`, `failed` and `skipped` are its counts.
    """

    id: str
    task: str
    queue: str
    state: RunState
    description: bytes = field(default=b"", repr=False)
    options: bytes = field(default=b"", repr=False)
    is_planned: bool = False
    part: int = 0
    rest: str | None = None
    keep: bool = False
    total: int = 0
    is_estimated: bool = False
    generation: int = 0
    fence: int = 0
    attempts: int = 0
    lease_until: datetime | None = None
    error: str = ""
    waiting: str = ""
    leg_limit: float | None = None
    killed_after: float | None = None
    is_summary: bool = False
    done: int = 0
    failed: int = 0
    skipped: int = 0
    created_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def has_plan(self) -> bool:
        """Whether a part of the plan is stored."""
        return self.is_planned or self.part > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRun(Run):
    """A run in a list that has a stored value which can't be read; `error` names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A piece of a run: the keys above `low`, up to and including `high`. None is open.

    `cursor` is the key up to which all rows are settled. `seq` numbers the tasks that
    walk the shard. `fence` grows with each lease. Cloud Tasks gives the delivery that
    has the lease up at `deadline_at`; the leg had lived for `lived` seconds at its last
    checkpoint. `deaths` counts the leases that expired without being given back since
    `cursor` last moved while there was no `suspect`. `suspect` is a key that is written
    just before its callback is called. `sweeps` counts the tasks that the sweeper made
    since one was delivered. A query looks at `stride` keys of the table at most; None
    is no bound.
    """

    run: str
    index: int
    low: str | None = None
    high: str | None = None
    cursor: str | None = None
    expected: int = 0
    seq: int = 0
    fence: int = 0
    state: ShardState = ShardState.WAITING
    lease_until: datetime | None = None
    deadline_at: datetime | None = None
    lived: float = 0.0
    deaths: int = 0
    sweeps: int = 0
    suspect: str | None = None
    is_walked: bool = False
    stride: int | None = None
    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def size(self) -> int:
        """The rows of the shard: those of the plan, until it is DONE."""
        settled = self.done + self.failed + self.skipped
        return settled if self.state is ShardState.DONE else max(self.expected, settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSums:
    """The counts of all shards of a run. `size` is the number of their rows, by the
    plan where a shard is not DONE; `undone` of the `shards` are not DONE."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    size: int = 0
    shards: int = 0
    undone: int = 0

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> ShardSums:
        return cls(
            done=sum(shard.done for shard in shards),
            failed=sum(shard.failed for shard in shards),
            skipped=sum(shard.skipped for shard in shards),
            size=sum(shard.size for shard in shards),
            shards=len(shards),
            undone=sum(shard.state is not ShardState.DONE for shard in shards),
        )


@dataclass(frozen=True, slots=True)
class IterationCounts:
    """How many runs are in a state, and how many rows of all runs were given up."""

    runs: Mapping[RunState, int]
    failed_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """The progress of a shard, as a leg writes it. The counts are of the whole shard.

    `is_walked` tells that no row is left above the cursor; rows may still wait for
    another try. `stride` and `lived` are those of the shard.
    """

    cursor: str | None
    done: int
    failed: int
    skipped: int
    is_walked: bool = False
    stride: int | None = None
    lived: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """A row whose callback raised an error. A row that is WAITING is tried again at
    `due_at`."""

    run: str
    shard: int
    key: str
    state: FailureState
    attempts: int = 1
    error: str = ""
    traceback: str = ""
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    `total` is the number of rows of the plan, and `is_estimated` tells that they are
    not counted, or that not all of a large table is planned. `rate` is rows per second
    since the start, and `remaining` the time left at that rate, None if the run does
    not go on.
    """

    done: int
    failed: int
    skipped: int
    total: int
    fraction: float
    rate: float
    remaining: timedelta | None
    is_estimated: bool = False

    def __str__(self) -> str:
        settled = self.done + self.failed + self.skipped
        about = "about " if self.is_estimated else ""
        parts = [f"{settled:,} of {about}{self.total:,} ({self.fraction:.0%})"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped")
        parts.append(f"{self.rate:,.0f}/s")
        if self.remaining is not None:
            parts.append(f"{self.remaining} left")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The counts of one shard."""

    index: int
    state: ShardState
    expected: int
    done: int
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class IterationReport:
    """The counts of a run; finalize may read them.

    A run that was not kept has no `shards` after its end.
    """

    done: int
    failed: int
    skipped: int
    started: datetime | None
    finished: datetime | None
    shards: tuple[ShardReport, ...]


class LeaseLost(Exception):
    """Another delivery holds the lease now: the leg must stop at once and write
    nothing."""
