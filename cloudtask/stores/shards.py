"""Defines how a store keeps shards and failed rows: queries, and all changes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from cloudtask import transitions
from cloudtask.exceptions import BadSignature
from cloudtask.runs import (
    FailureState,
    LeaseLost,
    RowFailure,
    Run,
    Shard,
    ShardSums,
    Walked,
)
from cloudtask.stores.fitting import Unreadable
from cloudtask.stores.pages import Page
from cloudtask.stores.runs import BEGIN_AGAIN, LOST_KEY
from cloudtask.stores.sealing import opened_shard
from cloudtask.stores.swaps import Swap, Swaps
from cloudtask.transitions import Moment


class ShardStore(Swaps):
    """A store of shards and of rows that failed.

    Every store passes tests/stores/shards_contract.py and row_failures_contract.py.
    """

    @abstractmethod
    def load_run(self, run_id: str) -> Run | None: ...

    @abstractmethod
    def refuse(self, run: Run, why: str, remedy: str = ...) -> bool: ...

    @abstractmethod
    def load_shards(self, run_id: str) -> list[Shard]:
        """The shards of a run by index, with sealed keys: for counts and states."""

    @abstractmethod
    def sums_of_shards(self, run_ids: Sequence[str]) -> dict[str, ShardSums]:
        """The counts of the shards of each run, by its id; none for a run without
        shards."""

    @abstractmethod
    def read_shard(self, run_id: str, index: int) -> Shard | None:
        """The shard as it is stored, with sealed keys."""

    def load_shard(self, run_id: str, index: int) -> Shard | None:
        """The shard with its keys, if there is one.

        If a key is refused, the run becomes FAILED, and the keys stay sealed. None if
        a value can't be read; the run is FAILED then, too.
        """
        found: Shard | None = None
        with suppress(BadSignature), self._refusing(run_id):
            found = self.read_shard(run_id, index)
            return opened_shard(found) if found else None
        return found

    @contextmanager
    def _refusing(self, run_id: str) -> Iterator[None]:
        """Change the run to FAILED if the block refuses one of its values."""
        try:
            yield
        except BadSignature as error:
            remedy = BEGIN_AGAIN if isinstance(error, Unreadable) else LOST_KEY
            if run := self.load_run(run_id):
                self.refuse(run, str(error), remedy)
            raise

    @abstractmethod
    def is_at_work(self, run_id: str) -> bool:
        """Whether a worker may still process a shard of the run."""

    @abstractmethod
    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        """Undone shards of RUNNING runs whose task is lost.

        They were not written for `older_than`, no worker can process them, and they do
        not just wait for the next try of a row. Each of their `sweeps`, up to
        MOST_DOUBLINGS, doubles that time, because a queue may be paused.
        """

    def _change_shard(
        self,
        what: str,
        run_id: str,
        index: int,
        transition: Callable[[Shard, Moment], Shard | None],
        *,
        if_running: bool = False,
        beside: Callable[[Swap], object] = lambda swap: None,
    ) -> Shard | None:
        """Write the shard that `transition` returns, and the writes of `beside`.

        None if `transition` refuses, or if the shard can't be read: the run is FAILED.
        """

        def read(swap: Swap) -> Shard | None:
            return swap.shard(run_id, index, if_running=if_running)

        def write(swap: Swap, shard: Shard) -> None:
            swap.put_shard(shard)
            beside(swap)

        what = f"{what} shard {index} of iteration {run_id}"
        with suppress(Unreadable), self._refusing(run_id):
            return self.changed(what, read, transition, write)
        return None

    def acquire(
        self,
        run_id: str,
        index: int,
        seq: int,
        *,
        lease: timedelta,
        budget: timedelta = timedelta(0),
    ) -> Shard | None:
        """Take the lease of a shard, and return the changed shard.

        Cloud Tasks ends its wait for the delivery after `budget`.

        None unless the run is RUNNING, `seq` is the shard's, the shard is not DONE and
        no lease is live. `fence` grows by one, and `lived` becomes 0. `deaths` grows by
        one if the lease before this one was not given back, else it becomes 0. If a key
        is refused, the run is FAILED.
        """
        transition = partial(
            transitions.shard_leased, seq=seq, lease=lease, budget=budget
        )
        leased = self._change_shard(
            "Leasing", run_id, index, transition, if_running=True
        )
        with suppress(BadSignature), self._refusing(run_id):
            return opened_shard(leased) if leased else None
        if leased:
            self.give_back(leased, None)
        return None

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
        """Write progress and renew the lease. `deaths` becomes 0 if the cursor moved
        and there is no `suspect`.

        In the same transaction `failure` is recorded, due `delay` from now, and the
        failure of the key `resolved` is deleted. False, and nothing is written, if
        `shard.fence` is not the shard's any more, or if the run is not RUNNING. A row
        that is `resolved` was called already: that is written in any state of the run.
        """
        transition = partial(
            transitions.checkpointed,
            held=shard,
            walked=walked,
            lease=lease,
            suspect=suspect,
        )

        def beside(swap: Swap) -> None:
            if failure is not None:
                swap.put_failure(failure, delay)
            if resolved is not None:
                swap.forget_failure(shard.run, resolved)

        written = self._change_shard(
            "Checkpoint of",
            shard.run,
            shard.index,
            transition,
            if_running=resolved is None,
            beside=beside,
        )
        return written is not None

    def give_back(
        self, shard: Shard, walked: Walked | None, *, is_killed: bool = False
    ) -> bool:
        """End the lease under the same `seq`, so that the same task can be delivered
        again. Progress stays as it is stored if `walked` is None.

        With `is_killed` the server is killing the worker: the next lease counts a death
        as if this one had expired, and `suspect` stays. False if the fence is not ours.
        Works in any state of the run.
        """
        transition = partial(
            transitions.given_back, held=shard, walked=walked, is_killed=is_killed
        )
        given = self._change_shard("Giving back", shard.run, shard.index, transition)
        return given is not None

    def release(
        self, shard: Shard, walked: Walked, *, split: Shard | None = None
    ) -> Shard | None:
        """End the lease, and increase `seq` by one for the task that follows.

        With `split`, the shard ends where `split` begins, and in the same transaction
        `split` is inserted under the next index. Returns the inserted shard, or None
        without a split. Raises LeaseLost if the fence is not ours. Works in any state
        of the run.
        """
        transition = partial(
            transitions.released, held=shard, walked=walked, split=split
        )
        made: list[Shard] = []

        def beside(swap: Swap) -> None:
            made[:] = swap.add_shards(shard.run, [split]) if split else []

        if not self._change_shard(
            "Releasing", shard.run, shard.index, transition, beside=beside
        ):
            raise LeaseLost(f"{shard.run}[{shard.index}]")
        return made[0] if made else None

    def complete(self, shard: Shard, walked: Walked) -> bool:
        """Mark the shard DONE and end the lease. False if the fence is not ours."""
        transition = partial(transitions.completed, held=shard, walked=walked)
        done = self._change_shard("Completing", shard.run, shard.index, transition)
        return done is not None

    def touch_shard(self, shard: Shard) -> None:
        """Record that the task of the shard is not lost."""

        def touched(found: Shard, moment: Moment) -> Shard:
            return replace(found, sweeps=0)

        self._change_shard("Touching", shard.run, shard.index, touched)

    def bump_shard(self, shard: Shard, *, sweeps: int = 0) -> Shard | None:
        """Increase `seq` by one, set `sweeps`, and return the changed shard.

        None if `seq` is no longer `shard.seq`, or a worker may process the shard.
        """
        transition = partial(transitions.shard_renumbered, seen=shard, sweeps=sweeps)
        return self._change_shard("Renumbering", shard.run, shard.index, transition)

    # Rows that failed

    def resolve_failure(self, run_id: str, key: str) -> None:
        """Delete the failure of a row whose callback has succeeded."""
        self.swap(
            f"Resolving a failed row of {run_id}",
            lambda swap: swap.forget_failure(run_id, key),
        )

    @abstractmethod
    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        """Failures of a run, or of one of its shards."""

    @abstractmethod
    def page_failures(
        self,
        run_id: str,
        *,
        states: Sequence[FailureState] = (),
        after: str | None = None,
        limit: int,
    ) -> Page[RowFailure]:
        """Failures of a run in a fixed order, from the mark `after` on. No states mean
        all. A page may have fewer than `limit` items although more follow."""

    @abstractmethod
    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        """Failures that are WAITING and due, the longest first.

        Also the seconds until the next one is due, None if there is none beyond those
        returned. If a key is refused, the run is FAILED, and BadSignature is raised.
        """

    @abstractmethod
    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        """The number of failures of a run: all of them, or those in GIVEN_UP."""

    def runs_with_failures(self, limit: int) -> list[Run]:
        """Runs that have rows in GIVEN_UP, newest first. If there are more than
        `limit`, they are any of them."""
        found = filter(None, map(self.load_run, self.ids_with_failures(limit)))
        newest = sorted(found, key=lambda run: run.id)
        newest.sort(key=lambda run: str(run.created_at), reverse=True)
        return newest

    @abstractmethod
    def ids_with_failures(self, limit: int) -> list[str]:
        """Ids of runs that have rows in GIVEN_UP, in the order of the ids."""

    @abstractmethod
    def discard_failures(self, run_id: str) -> int:
        """Delete the failures in GIVEN_UP, and return their number.

        The counts of their shards stay. If a call is interrupted, another call does the
        rest. A row that is opened again meanwhile is not deleted.
        """

    @abstractmethod
    def reopen_failures(self, run_id: str) -> int:
        """Make rows in GIVEN_UP WAITING and due, and return their number.

        Their shards become WAITING, with `seq` increased by one, and with `failed` and
        `skipped` reduced by these rows.
        """
