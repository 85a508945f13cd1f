"""Defines how a store changes records: load, change, and write if unchanged since.

A store supplies `swap`. The functions of `cloudtask.transitions` decide the changed
record; they are the same for every store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

from cloudtask.runs import RowFailure, Run, Shard
from cloudtask.transitions import Moment

T = TypeVar("T")
R = TypeVar("R", Run, Shard)


class Swap(Protocol):
    """One try of a change.

    Its writes are made together after the change function returns. None is made if a
    record that was read has changed meanwhile. A change must read first, because it
    does not see its own writes.
    """

    @property
    def moment(self) -> Moment:
        """The store's time when the records were read."""
        ...

    def run(self, run_id: str) -> Run | None:
        """The run without its description."""
        ...

    def shard(
        self, run_id: str, index: int, *, if_running: bool = False
    ) -> Shard | None:
        """The shard.

        With `if_running`, it is None unless its run is RUNNING, and the write is
        refused if the run is no longer RUNNING.
        """
        ...

    def has_undone(self, run_id: str) -> bool:
        """Whether a shard of the run is not DONE."""
        ...

    def put_run(self, run: Run, description: bytes | None = None) -> None:
        """Write the run; its description changes only if one is given."""
        ...

    def put_shard(self, shard: Shard) -> None: ...

    def add_shards(self, run_id: str, shards: Sequence[Shard]) -> list[Shard]:
        """Insert shards after the existing ones; return them with their indexes."""
        ...

    def put_failure(self, failure: RowFailure, delay: timedelta) -> None:
        """Insert or replace the failure of a row, which is due `delay` from now."""
        ...

    def forget_failure(self, run_id: str, key: str) -> None: ...


class Swaps(ABC):
    """A store that can change records.

    Its methods raise EnqueueUnavailable if the store can't be reached. Every change is
    a transaction of its own unless the caller has one open.

    `database` is the alias of the SQL database whose open transaction includes the
    writes of the store. None if the store can take part in no SQL transaction.
    """

    database: str | None

    @abstractmethod
    def swap(self, what: str, change: Callable[[Swap], T]) -> T:
        """Call `change` until its writes succeed, and return its return value.

        `what` names the change in errors.
        """

    def changed(
        self,
        what: str,
        read: Callable[[Swap], R | None],
        transition: Callable[[R, Moment], R | None],
        write: Callable[[Swap, R], object],
    ) -> R | None:
        """Write the record that `transition` makes of the one that `read` returns.

        None, and nothing is written, if there is no record, or `transition` refuses.
        """

        def change(swap: Swap) -> R | None:
            record = read(swap)
            after = transition(record, swap.moment) if record else None
            if after is not None:
                write(swap, after)
            return after

        return self.swap(what, change)
