"""Shards of iterations in Datastore.

Whoever walks a shard reads its run in the same transaction, to stop when it was paused;
the run is seldom written, so these readers don't disturb each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from cloudtask.runs import (
    MOST_DOUBLINGS,
    LeaseLost,
    RowFailure,
    RunState,
    Shard,
    ShardState,
    Walked,
)
from cloudtask.stores.datastore.access import (
    Access,
    Attempt,
    Row,
    beginning,
    names_beginning,
)
from cloudtask.stores.datastore.entities import (
    FAILURE,
    RUN,
    SHARD,
    count_path,
    failure_path,
    failure_row,
    failures_of,
    place,
    run_path,
    shard_of,
    shard_path,
    shard_row,
    sortable,
)
from cloudtask.stores.datastore.leases import is_live

Change = Callable[[Shard], Shard | None]


class DatastoreShards(Access):
    """The part of DatastoreStore that keeps shards."""

    def load_shards(self, run_id: str) -> list[Shard]:
        rows = self.query(
            f"Loading the shards of iteration {run_id}",
            SHARD,
            names_beginning(SHARD, f"{run_id}:"),
        )
        return [shard_of(row) for row in rows]

    def load_shard(self, run_id: str, index: int) -> Shard | None:
        what = f"Loading shard {index} of iteration {run_id}"
        [row] = self.get(what, shard_path(run_id, index))
        return shard_of(row) if row else None

    def acquire(
        self,
        run_id: str,
        index: int,
        seq: int,
        *,
        lease: timedelta,
        budget: timedelta = timedelta(0),
    ) -> Shard | None:
        now = self.now()

        def leased(shard: Shard) -> Shard | None:
            if shard.seq != seq or not _is_free(shard, now):
                return None
            was_cut_off = shard.state is ShardState.RUNNING
            return replace(
                shard,
                state=ShardState.RUNNING,
                fence=shard.fence + 1,
                lease_until=now + lease,
                deadline_at=now + budget,
                lived=0.0,
                sweeps=0,
                deaths=shard.deaths + 1 if was_cut_off else 0,
            )

        def work(attempt: Attempt) -> Shard | None:
            return _put_while_running(attempt, run_id, index, leased, now)

        return self.transact(f"Leasing shard {index} of iteration {run_id}", work)

    def checkpoint(
        self,
        shard: Shard,
        walked: Walked,
        *,
        lease: timedelta,
        suspect: str | None = None,
        failure: RowFailure | None = None,
        delay: timedelta = timedelta(0),
        resolved: str | None = None,
    ) -> bool:
        now = self.now()
        recorded = [failure_row(failure, now + delay)] if failure else []
        forgotten = [failure_path(shard.run, resolved)] if resolved is not None else []

        def renewed(found: Shard) -> Shard | None:
            if not _is_held(found, shard):
                return None
            is_alive = walked.cursor != found.cursor and suspect is None
            return replace(
                _further(found, walked),
                suspect=suspect,
                lease_until=now + lease,
                deaths=0 if is_alive else found.deaths,
            )

        def work(attempt: Attempt) -> bool:
            # What is resolved has been done, whatever the run's state is now.
            change = _put_while_running if resolved is None else _put_anyway
            if change(attempt, shard.run, shard.index, renewed, now) is None:
                return False
            attempt.put(*recorded)
            attempt.delete(*forgotten)
            return True

        return self.transact(f"Checkpoint of shard {shard.index} of {shard.run}", work)

    def release(
        self, shard: Shard, walked: Walked, *, split: Shard | None = None
    ) -> Shard | None:
        now = self.now()

        def released(found: Shard) -> Shard | None:
            if not _is_held(found, shard):
                return None
            ended = _without_lease(_further(found, walked))
            ended = replace(ended, state=ShardState.WAITING, seq=found.seq + 1)
            return _cut(ended, split) if split else ended

        def work(attempt: Attempt) -> Shard | None:
            row = attempt.get(shard_path(shard.run, shard.index))
            if _put(attempt, row, released, now) is None:
                raise LeaseLost(f"{shard.run}[{shard.index}]")
            return _inserted(attempt, split, now) if split else None

        return self.transact(f"Releasing shard {shard.index} of {shard.run}", work)

    def complete(self, shard: Shard, walked: Walked) -> bool:
        now = self.now()

        def completed(found: Shard) -> Shard | None:
            if not _is_held(found, shard):
                return None
            ended = _without_lease(_further(found, walked))
            return replace(ended, state=ShardState.DONE)

        def work(attempt: Attempt) -> bool:
            row = attempt.get(shard_path(shard.run, shard.index))
            return _put(attempt, row, completed, now) is not None

        return self.transact(f"Completing shard {shard.index} of {shard.run}", work)

    def give_back(
        self, shard: Shard, walked: Walked | None, *, is_killed: bool = False
    ) -> bool:
        now = self.now()

        def given(found: Shard) -> Shard | None:
            if not _is_held(found, shard):
                return None
            there = _further(found, walked) if walked else found
            if not is_killed:
                return replace(_without_lease(there), state=ShardState.WAITING)
            has_moved = there.cursor != shard.cursor and found.suspect is None
            deaths = 0 if has_moved else found.deaths
            return replace(there, lease_until=None, deadline_at=None, deaths=deaths)

        def work(attempt: Attempt) -> bool:
            row = attempt.get(shard_path(shard.run, shard.index))
            return _put(attempt, row, given, now) is not None

        return self.transact(f"Giving back shard {shard.index} of {shard.run}", work)

    def is_at_work(self, run_id: str) -> bool:
        now = self.now()
        return any(_may_be_walked(shard, now) for shard in self.load_shards(run_id))

    def touch_shard(self, shard: Shard) -> None:
        now = self.now()

        def work(attempt: Attempt) -> None:
            row = attempt.get(shard_path(shard.run, shard.index))
            _put(attempt, row, lambda found: replace(found, sweeps=0), now)

        self.transact(f"Touching shard {shard.index} of {shard.run}", work)

    def bump_shard(self, shard: Shard, *, sweeps: int = 0) -> Shard | None:
        now = self.now()

        def bumped(found: Shard) -> Shard | None:
            if found.seq != shard.seq or not _is_free(found, now):
                return None
            if _may_be_walked(found, now):
                return None
            return replace(found, seq=found.seq + 1, sweeps=sweeps)

        def work(attempt: Attempt) -> Shard | None:
            row = attempt.get(shard_path(shard.run, shard.index))
            return _put(attempt, row, bumped, now)

        return self.transact(f"Renumbering shard {shard.index} of {shard.run}", work)

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        """By way of the runs, of which few are RUNNING: an index of the time that each
        shard was touched would be written with every checkpoint of every shard."""
        what, now = "Looking for lost shards", self.now()
        running = beginning("place", place(RunState.RUNNING))
        lost: list[Row] = []
        for run in self.query(what, RUN, running, projection=["__key__"]):
            undone = [("undone_of", "=", run.path[-1])]
            lost += [
                row
                for row in self.query(what, SHARD, undone)
                if row.values["touched_at"] < now - _patience(row, older_than)
                and not _may_be_walked(shard_of(row), now)
                and not self._rests(what, shard_of(row), now)
            ]
        lost.sort(key=lambda row: row.values["touched_at"])
        return [shard_of(row) for row in lost[:limit]]

    def _rests(self, what: str, shard: Shard, now: datetime) -> bool:
        """Whether the shard has only rows left that wait for their next try."""
        if not shard.is_walked:
            return False
        of_shard = failures_of(shard.run, shard.index)
        _, end = beginning("due", of_shard)
        later = [("due", ">", of_shard + sortable(now)), end]
        return bool(self.query(what, FAILURE, later, projection=["__key__"], limit=1))


def _put_while_running(
    attempt: Attempt, run_id: str, index: int, change: Change, now: datetime
) -> Shard | None:
    """What `change` makes of the shard, to be written; None when that is None, or the
    run is not RUNNING."""
    run, row = attempt.get_all(run_path(run_id), shard_path(run_id, index))
    if run is None or run.values["state"] != RunState.RUNNING.value:
        return None
    return _put(attempt, row, change, now)


def _put_anyway(
    attempt: Attempt, run_id: str, index: int, change: Change, now: datetime
) -> Shard | None:
    return _put(attempt, attempt.get(shard_path(run_id, index)), change, now)


def _put(
    attempt: Attempt, row: Row | None, change: Change, now: datetime
) -> Shard | None:
    changed = change(shard_of(row)) if row else None
    if changed is not None:
        attempt.put(shard_row(changed, now))
    return changed


def _inserted(attempt: Attempt, split: Shard, now: datetime) -> Shard:
    """`split` under the next index. Of two at once one finds the count changed, and
    begins again."""
    count = attempt.get(count_path(split.run))
    if count is None:
        raise LeaseLost(f"{split.run} was deleted.")
    placed = replace(split, index=count.values["count"])
    attempt.put(shard_row(placed, now), Row(count.path, {"count": placed.index + 1}))
    return placed


def _is_free(shard: Shard, now: datetime) -> bool:
    return shard.state is not ShardState.DONE and not is_live(shard.lease_until, now)


def _patience(row: Row, older_than: timedelta) -> timedelta:
    return older_than * (1 << min(shard_of(row).sweeps, MOST_DOUBLINGS))


def _may_be_walked(shard: Shard, now: datetime) -> bool:
    is_in_time = shard.deadline_at is not None and shard.deadline_at > now
    is_alive = is_in_time or is_live(shard.lease_until, now)
    return is_alive and shard.state is ShardState.RUNNING


def _is_held(found: Shard, by: Shard) -> bool:
    return found.fence == by.fence and found.state is ShardState.RUNNING


def _further(shard: Shard, walked: Walked) -> Shard:
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


def _without_lease(shard: Shard) -> Shard:
    return replace(shard, lease_until=None, deadline_at=None, deaths=0, suspect=None)


def _cut(shard: Shard, split: Shard) -> Shard:
    expected = max(0, shard.expected - split.expected)
    return replace(shard, high=split.low, expected=expected)
