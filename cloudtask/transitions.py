"""Changes runs and shards: pure functions from a record and a moment to a record.

Each function returns the changed record, or None when it refuses the change. A store
loads a record, calls one function, and writes the result if nobody has written the
record meanwhile. So every store has the same states, whatever it keeps them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cloudtask.runs import (
    ENDED,
    GIVEN_UP,
    RUN_TRANSITIONS,
    FailureState,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardState,
    Walked,
)

# A delivery lasts a day at most, on App Engine.
LONGEST_LEASE = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Moment:
    """The time of the store.

    A lease counts as live for `skew` longer than it says: the processes that hold and
    want it may have clocks that differ by so much.
    """

    now: datetime
    skew: timedelta = timedelta(0)

    def is_live(self, lease_until: datetime | None) -> bool:
        """Whether a lease lasts. One that lasts longer than any does not count."""
        if lease_until is None:
            return False
        return self.now - self.skew <= lease_until <= self.now + LONGEST_LEASE


# Runs


def run_changed(
    run: Run,
    moment: Moment,
    *,
    to: RunState,
    only_from: Sequence[RunState],
    generation: int | None,
    error: str | None,
) -> Run | None:
    if run.state not in only_from or to not in RUN_TRANSITIONS[run.state]:
        return None
    if generation not in (None, run.generation):
        return None
    changed = _entering(run, to, moment)
    return changed if error is None else replace(changed, error=error)


def _entering(run: Run, to: RunState, moment: Moment) -> Run:
    """The run in another state, in which nothing was called yet."""
    started = moment.now if to is RunState.RUNNING else None
    return replace(
        run,
        state=to,
        generation=run.generation + 1,
        attempts=0,
        due_at=None,
        waiting="",
        started_at=run.started_at or started,
    )


def part_added(
    run: Run,
    moment: Moment,
    *,
    part: int,
    total: int,
    is_estimated: bool,
    rest: str | None,
) -> Run | None:
    if run.part != part or run.is_planned or run.state in ENDED:
        return None
    is_first = run.state is RunState.PLANNING
    return replace(
        run,
        is_planned=rest is None,
        part=part + 1,
        rest=rest,
        total=run.total + total,
        is_estimated=run.is_estimated or is_estimated,
        state=RunState.RUNNING if is_first else run.state,
        started_at=run.started_at or moment.now,
    )


def run_leased(
    run: Run, moment: Moment, *, state: RunState, lease: timedelta, is_call: bool
) -> Run | None:
    if run.state is not state or moment.is_live(run.lease_until):
        return None
    return replace(
        run,
        fence=run.fence + 1,
        attempts=run.attempts + int(is_call),
        lease_until=moment.now + lease,
    )


def run_settled(
    run: Run,
    moment: Moment,
    *,
    fence: int,
    to: RunState | None,
    error: str | None,
    waiting: str,
    delay: timedelta | None,
) -> Run | None:
    if run.fence != fence:
        return None
    free = replace(run, lease_until=None, waiting=waiting)
    if error is not None:
        free = replace(free, error=error)
    if to is None:
        return free if delay is None else replace(free, due_at=moment.now + delay)
    if to not in RUN_TRANSITIONS[run.state]:
        return None
    # The first end stays for good: it tells that the last function was called.
    is_end = to in ENDED and to is not RunState.FAILED
    finished = run.finished_at or (moment.now if is_end else None)
    return replace(free, state=to, due_at=None, finished_at=finished)


def finalizing(run: Run, moment: Moment) -> Run | None:
    """Only for a run of which no shard is undone: the store must look."""
    if run.state is not RunState.RUNNING or not run.is_planned:
        return None
    return _entering(run, RunState.FINALIZING, moment)


def run_renumbered(run: Run, moment: Moment, *, seen: Run) -> Run | None:
    if (run.generation, run.state) != (seen.generation, seen.state):
        return None
    if moment.is_live(run.lease_until):
        return None
    return replace(run, generation=run.generation + 1)


# Shards


def shard_leased(
    shard: Shard, moment: Moment, *, seq: int, lease: timedelta, budget: timedelta
) -> Shard | None:
    is_taken = shard.state is ShardState.DONE or moment.is_live(shard.lease_until)
    if is_taken or shard.seq != seq:
        return None
    # A lease that nobody gave back: its process was killed, or is very slow.
    was_cut_off = shard.state is ShardState.RUNNING
    return replace(
        shard,
        state=ShardState.RUNNING,
        fence=shard.fence + 1,
        lease_until=moment.now + lease,
        deadline_at=moment.now + budget,
        lived=0.0,
        sweeps=0,
        deaths=shard.deaths + 1 if was_cut_off else 0,
    )


def checkpointed(
    shard: Shard,
    moment: Moment,
    *,
    held: Shard,
    walked: Walked,
    lease: timedelta,
    suspect: str | None,
) -> Shard | None:
    if not _is_held(shard, held):
        return None
    has_moved = walked.cursor != held.cursor and suspect is None
    return replace(
        _walked_to(shard, walked),
        suspect=suspect,
        lease_until=moment.now + lease,
        deaths=0 if has_moved else shard.deaths,
    )


def released(
    shard: Shard, moment: Moment, *, held: Shard, walked: Walked, split: Shard | None
) -> Shard | None:
    """`split` begins where the shard ends from now on."""
    if not _is_held(shard, held):
        return None
    ended = _resting(_walked_to(shard, walked), ShardState.WAITING)
    ended = replace(ended, seq=shard.seq + 1)
    if split is None:
        return ended
    expected = max(0, shard.expected - split.expected)
    return replace(ended, high=split.low, expected=expected)


def completed(
    shard: Shard, moment: Moment, *, held: Shard, walked: Walked
) -> Shard | None:
    if not _is_held(shard, held):
        return None
    return _resting(_walked_to(shard, walked), ShardState.DONE)


def given_back(
    shard: Shard,
    moment: Moment,
    *,
    held: Shard,
    walked: Walked | None,
    is_killed: bool,
) -> Shard | None:
    if not _is_held(shard, held):
        return None
    ended = _walked_to(shard, walked) if walked else shard
    if not is_killed:
        return _resting(ended, ShardState.WAITING)
    # It stays RUNNING, so that the next lease counts a death.
    has_moved = walked is not None and walked.cursor != held.cursor
    has_moved = has_moved and shard.suspect is None
    deaths = 0 if has_moved else shard.deaths
    return replace(ended, lease_until=None, deadline_at=None, deaths=deaths)


def shard_renumbered(
    shard: Shard, moment: Moment, *, seen: Shard, sweeps: int
) -> Shard | None:
    if shard.state is ShardState.DONE or may_be_walked(shard, moment):
        return None
    if shard.seq != seen.seq:
        return None
    return replace(shard, seq=shard.seq + 1, sweeps=sweeps)


def may_be_walked(shard: Shard, moment: Moment) -> bool:
    """Whether a worker may still be in the shard.

    A row can take longer than the lease. Cloud Tasks gives the delivery up at
    `deadline_at`, and what runs on after that is fenced off.
    """
    if shard.state is not ShardState.RUNNING:
        return False
    deadline, now = shard.deadline_at, moment.now
    is_in_time = deadline is not None and now < deadline < now + LONGEST_LEASE
    return is_in_time or moment.is_live(shard.lease_until)


def reopened(shard: Shard, *, rows: int) -> Shard:
    """The shard when so many of its given-up rows wait again."""
    from_failed = min(shard.failed, rows)
    return replace(
        shard,
        state=ShardState.WAITING,
        seq=shard.seq + 1,
        lease_until=None,
        failed=shard.failed - from_failed,
        skipped=shard.skipped - min(shard.skipped, rows - from_failed),
    )


def row_reopened(failure: RowFailure) -> RowFailure | None:
    if failure.state not in GIVEN_UP:
        return None
    return replace(failure, state=FailureState.WAITING, attempts=0)


def _is_held(shard: Shard, held: Shard) -> bool:
    """Whether the lease that `held` was taken with is still the shard's."""
    return shard.fence == held.fence and shard.state is ShardState.RUNNING


def _walked_to(shard: Shard, walked: Walked) -> Shard:
    return replace(
        shard,
        cursor=walked.cursor,
        done=walked.done,
        failed=walked.failed,
        skipped=walked.skipped,
        is_walked=walked.is_walked,
        stride=walked.stride,
        lived=walked.lived,
    )


def _resting(shard: Shard, state: ShardState) -> Shard:
    """The shard without a lease, and without what is known of the lease's holder."""
    return replace(
        shard,
        state=state,
        lease_until=None,
        deadline_at=None,
        deaths=0,
        suspect=None,
    )
