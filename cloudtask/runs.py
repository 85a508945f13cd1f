"""Runs and shards of iterations: their records and their states.

The transitions below are the whole life of a run and of a shard; docs/explanation/
iteration-states.md is drawn from them, and a store changes a state only along them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RunState(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"  # made; the plan is not begun
    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    ABORTED = "aborted"  # by on_error="abort"
    FAILED = "failed"  # what it walks can't be read, or finalize was given up


class ShardState(StrEnum):
    """Where a shard stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class FailureState(StrEnum):
    """Where a row that raised stands."""

    WAITING = "waiting"  # to be tried again
    FAILED = "failed"  # given up or skipped
    KILLED = "killed"  # its process died in the callback, again and again


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
}
SHARD_TRANSITIONS: Mapping[ShardState, tuple[ShardState, ...]] = {
    ShardState.WAITING: (ShardState.RUNNING,),
    ShardState.RUNNING: (ShardState.RUNNING, ShardState.WAITING, ShardState.DONE),
    ShardState.DONE: (ShardState.WAITING,),  # only by retry_failures()
}
MOST_DOUBLINGS = 6  # of the sweeper's patience
STOPPED = frozenset({RunState.CANCELLED, RunState.ABORTED})
ENDED = frozenset(
    {RunState.FINISHED, RunState.CANCELLED, RunState.ABORTED, RunState.FAILED}
)


def states_before(to: RunState) -> list[RunState]:
    """The states from which a run may go to `to`."""
    return [state for state, after in RUN_TRANSITIONS.items() if to in after]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One iteration. Keys are encoded by the codec; times are the store's own.

    `description` is a sealed value: what to walk and how; it may take megabytes.
    `options` is how its tasks travel, as JSON. `generation` numbers the tasks that plan
    or finalize it, `fence` whoever holds its lease. `part` counts the parts of its plan
    that are stored, `rest` is where the planner goes on. `attempts` counts the calls of
    its finalize, or of its `on_failure`, in this state. `due_at` is when its next step
    is due, its plan or such a call.
    """

    id: str
    task: str
    queue: str
    state: RunState
    description: bytes = b""
    options: bytes = b""
    is_planned: bool = False
    part: int = 0
    rest: str | None = None
    keep: bool = False
    total: int = 0
    generation: int = 0
    fence: int = 0
    attempts: int = 0
    lease_until: datetime | None = None
    error: str = ""
    created_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def has_plan(self) -> bool:
        """Whether a part of the plan is stored; `part` alone does not tell of runs that
        an earlier version has planned."""
        return self.is_planned or self.part > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A piece of a run: the keys above `low`, up to and with `high`; None is open.

    `seq` numbers the tasks that walk it, `fence` whoever holds its lease, and whom
    Cloud Tasks gives up at `deadline_at`. `deaths` counts the leases that ended without
    a word since `cursor` last moved with no `suspect`, the key whose callback was about
    to be called. `sweeps` counts the tasks that were made for it since one has come.
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
    deaths: int = 0
    sweeps: int = 0
    suspect: str | None = None
    is_walked: bool = False
    done: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """How far the holder of a lease has come, in all."""

    cursor: str | None
    done: int
    failed: int
    skipped: int
    is_walked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFailure:
    """A row whose callback raised; `due_at` is when it is tried again."""

    run: str
    shard: int
    key: str
    state: FailureState
    attempts: int = 1
    error: str = ""
    traceback: str = ""
    due_at: datetime | None = None


class LeaseLost(Exception):
    """Another delivery holds the shard now: stop at once, write nothing."""
