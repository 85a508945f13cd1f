"""What iteration asks of a store. Every one passes tests/stores/*_contract.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from cloudtask.runs import RowFailure, Run, RunState, Shard, Walked


class RunStore(Protocol):
    """What iteration asks of a store.

    Every change is one transaction of its own unless the caller holds one open. Methods
    raise EnqueueUnavailable when the store can't be reached.
    """

    @property
    def database(self) -> str | None:
        """Alias of the SQL database whose open transaction includes the store's writes.

        None if the store can take part in no SQL transaction.
        """
        ...

    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        """Insert `run`, whose plan is due `delay` from now; None when a transaction
        elsewhere decides whether it ever is."""
        ...

    def load_run(self, run_id: str) -> Run | None: ...

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        """The latest runs in `states`, newest first; all states when there are none."""
        ...

    def change_run(
        self,
        run_id: str,
        *,
        to: RunState,
        only_from: Sequence[RunState],
        generation: int | None = None,
        error: str | None = None,
        description: bytes | None = None,
    ) -> bool:
        """Compare and set: False, and nothing changed, unless it was in `only_from`,
        from where RUN_TRANSITIONS must lead to `to`, and had `generation` if given.

        Entering RUNNING sets `started_at` if it is not set; `generation` grows with
        every change, `attempts` becomes 0, `due_at` None and `waiting` empty. `error`
        and `description` replace the stored ones if they are given.
        """
        ...

    def add_part(
        self,
        run_id: str,
        part: int,
        shards: Sequence[Shard],
        *,
        total: int,
        is_estimated: bool = False,
        rest: str | None = None,
    ) -> bool:
        """Compare and set, in one transaction: insert `shards`, whose indexes continue
        those that exist; add `total` to the run's, which is an estimate from then on if
        one part's is; change PLANNING to RUNNING. Without a `rest` the plan is
        complete.

        False when `part` is not the run's, it is planned already, or has ended.
        """
        ...

    def load_shards(self, run_id: str) -> list[Shard]:
        """By index."""
        ...

    def load_shard(self, run_id: str, index: int) -> Shard | None: ...

    def acquire(
        self,
        run_id: str,
        index: int,
        seq: int,
        *,
        lease: timedelta,
        budget: timedelta = timedelta(0),
    ) -> Shard | None:
        """Take the lease of a shard, and return it as it is then; Cloud Tasks gives the
        delivery up after `budget`.

        None unless the run is RUNNING, `seq` is the shard's, the shard is not DONE and
        no lease is live. `fence` grows by one, and `lived` becomes 0. `deaths` grows by
        one if the lease before this one was not given back, else it becomes 0.
        """
        ...

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
        """Write progress and renew the lease; `deaths` becomes 0 if the cursor moved
        and there is no `suspect`.

        In the same transaction `failure` is recorded, due `delay` from now, and the
        failure of the key `resolved` is forgotten. False, and nothing is written, when
        `shard.fence` is not the shard's any more, or the run is not RUNNING; what is
        `resolved` has been done, and is written in any state.
        """
        ...

    def give_back(
        self, shard: Shard, walked: Walked | None, *, is_killed: bool = False
    ) -> bool:
        """End the lease under the same `seq`, so that the same task can be delivered
        again. Progress stays as it is stored if `walked` is None.

        With `is_killed` the server is killing the worker: the next lease counts a death
        as if this one had expired, and `suspect` stays. False if the fence is not ours.
        Works in any state of the run.
        """
        ...

    def release(
        self, shard: Shard, walked: Walked, *, split: Shard | None = None
    ) -> Shard | None:
        """Give the lease back with `seq` grown by one: a continuation follows.

        With `split`, in the same transaction: insert it under the next free index, and
        cut this shard's `high` and `expected` to where it begins; the inserted shard is
        returned. None otherwise. Raises LeaseLost when the fence is not ours; works in
        any state of the run.
        """
        ...

    def complete(self, shard: Shard, walked: Walked) -> bool:
        """Mark the shard DONE and end the lease; False when the fence is not ours."""
        ...

    def try_finalize(self, run_id: str) -> bool:
        """Compare and set RUNNING to FINALIZING if the run is planned and none of its
        shards is undone, as `change_run` does. True for the one caller that did it.

        Must not share a transaction with `complete`: see the write skew in the docs.
        """
        ...

    def acquire_run(
        self, run_id: str, *, state: RunState, lease: timedelta, is_call: bool = False
    ) -> Run | None:
        """Take the lease of a run in `state`; None while another one lives. `attempts`
        grows if it is taken for a call."""
        ...

    def settle_run(
        self,
        run: Run,
        *,
        to: RunState | None,
        error: str | None = None,
        waiting: str = "",
        delay: timedelta | None = None,
    ) -> bool:
        """End the lease, and set the state unless `to` is None. A state that ends the
        run, other than FAILED, sets `finished_at` once. False if `run.fence` is not the
        run's any more.

        `waiting` is replaced, and `error` if it is given. `due_at` becomes `delay` from
        now if that is given, and None with another state.
        """
        ...

    def set_pace(
        self, run_id: str, *, leg_limit: float | None, killed_after: float | None
    ) -> None:
        """Store how long legs of the run may take, and how long the latest killed one
        had lived, both in seconds."""
        ...

    def summarize_run(self, run_id: str) -> None:
        """Add up the counts of the shards in the run, and delete its shards, failures
        and description. Nothing is changed unless the run is FINISHED."""
        ...

    def touch_run(self, run_id: str) -> None:
        """Let the run not be stale: its task lives, and waits."""
        ...

    def delete_run(self, run_id: str) -> None:
        """Remove the run, its shards and its failures."""
        ...

    def record_failure(self, failure: RowFailure, *, delay: timedelta) -> None:
        """Insert or replace the failure of a key; due `delay` from the store's now."""
        ...

    def resolve_failure(self, run_id: str, key: str) -> None:
        """Forget the failure of a key: its callback has succeeded."""
        ...

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        """Failures by key."""
        ...

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        """Those WAITING that are due, the longest first, and the seconds until the next
        one is, None when none waits beyond them."""
        ...

    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        """The number of failures of a run: all of them, or those in GIVEN_UP."""
        ...

    def reopen_failures(self, run_id: str) -> int:
        """Make rows in GIVEN_UP WAITING and due, and their shards WAITING with `seq`
        grown by one. Lower `failed` and `skipped` of the shards by these rows, and
        return how many there were."""
        ...

    def is_at_work(self, run_id: str) -> bool:
        """Whether somebody may be walking a shard of the run: its lease lives, or a row
        takes longer than the lease, and Cloud Tasks has not yet given it up."""
        ...

    def touch_shard(self, shard: Shard) -> None:
        """Note that the task of the shard is not lost."""
        ...

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        """Undone shards of RUNNING runs that nobody can be walking, that nothing has
        touched for so long and that wait for no row: their task is lost. Twice as long
        for each of their `sweeps`, up to MOST_DOUBLINGS: a queue may be paused."""
        ...

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        """Runs that nothing has touched for so long, without a live lease or a
        `due_at` since then, that are WAITING and have one, PLANNING or FINALIZING,
        CANCELLED or ABORTED without a `finished_at`, or RUNNING and not planned to the
        end, or without an undone shard: their next task is lost."""
        ...

    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        """The ids of runs that nothing has touched for so long, and that have ended, or
        are WAITING and never due."""
        ...

    def bump_shard(self, shard: Shard, *, sweeps: int = 0) -> Shard | None:
        """Let `seq` grow by one if it is still `shard.seq` and nobody can be walking;
        the shard as it is then, or None. `sweeps` is what it has from then on."""
        ...

    def bump_run(self, run: Run) -> Run | None:
        """The same for the `generation` of a run of which no lease lives."""
        ...
