"""One leg of a shard: from the moment its lease is ours until it is given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from django.db import DatabaseError, OperationalError, transaction

from cloudtask import failpoints
from cloudtask.delivering.calls import awaited
from cloudtask.delivering.errors import UNCAUGHT, summary
from cloudtask.iteration import requests, stopping
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.description import Description
from cloudtask.iteration.keys import key_of, text_of
from cloudtask.iteration.sources import Source
from cloudtask.runs import LeaseLost, Run, Shard, Walked
from cloudtask.stores import Store
from cloudtask.stores.transactions import note_commit

logger = logging.getLogger("cloudtask")

CHECKPOINT = 2.0  # seconds between two writes of the cursor
CAREFUL_FROM = 2  # deaths at one cursor
# Seconds of callbacks: what killed two legs at one cursor lies no farther behind it, or
# they would have written another one.
CAREFUL_FOR = 2 * CHECKPOINT


class End(Enum):
    """Why a leg is over."""

    WALKED = "walked"  # no row is left above the cursor
    OUT_OF_TIME = "out of time"
    STOPPED = "stopped"  # the run is paused, cancelled or aborted


class Stopped(Exception):
    """The run is not running any more."""


class RowRaised(Exception):
    """The callback raised for a row, or for a list of rows; `error` is what."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(summary(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Work:
    """What does not change during a leg. `budget` is in seconds, `clock` monotonic."""

    store: Store
    run: Run
    description: Description
    source: Source
    function: Callable[..., Any]
    row_attempts: int
    lease: timedelta
    budget: float
    clock: Callable[[], float] = time.monotonic


class Leg:
    """How far the holder of a lease has come with `shard`, and how long it may go on.

    `cursor` is the key up to which all rows are settled; the counts are the shard's.
    They are doubtful when a transaction that writes them may have been committed, and
    may not. `careful` is the time of callbacks since what killed legs was looked for.
    """

    def __init__(self, work: Work, shard: Shard) -> None:
        self.work = work
        self.shard = shard
        self.high = key_of(shard.high)
        self.cursor: Any = key_of(shard.low if shard.cursor is None else shard.cursor)
        self.done, self.failed, self.skipped = shard.done, shard.failed, shard.skipped
        self.is_walked = shard.is_walked
        self.is_doubtful = False
        self.slowest = self.careful = 0.0
        self.started = self.saved = work.clock()

    @property
    def bounds(self) -> Bounds:
        """What is left of the shard."""
        return Bounds(self.cursor, self.high)

    @property
    def walked(self) -> Walked:
        """How far the shard has come, for its row."""
        return Walked(
            cursor=text_of(self.cursor),
            done=self.done,
            failed=self.failed,
            skipped=self.skipped,
            is_walked=self.is_walked,
        )

    @property
    def settled(self) -> int:
        """Rows of the shard that need nothing more."""
        return self.done + self.failed + self.skipped

    @property
    def is_careful(self) -> bool:
        """Whether the next row may be what has killed the process before."""
        return self.shard.deaths >= CAREFUL_FROM and self.careful < CAREFUL_FOR

    # Time

    @property
    def deadline(self) -> float:
        """When the leg must end to be answered in time."""
        margin = max(self.work.description.margin, 2 * self.slowest)
        # At least a tenth is work: a target may have a short deadline.
        return self.started + max(self.work.budget - margin, self.work.budget / 10)

    def next_look(self) -> float:
        """When to call `must_end` again."""
        return min(self.saved + CHECKPOINT, self.deadline)

    def must_end(self) -> End | None:
        """Whether the leg is over; writes the cursor when it is time to."""
        now = self.work.clock()
        if now >= self.deadline or stopping.asked():
            return End.OUT_OF_TIME
        if now - self.saved >= CHECKPOINT:
            self.save()
        return None

    # Progress

    def passed(self, key: Any, rows: int = 1) -> None:
        """The callback is through with `rows` rows, up to and with `key`."""
        self.cursor = key
        self.done += rows

    def save(self, **changes: Any) -> None:
        """Write cursor and counts, renew the lease, and make the `changes` that
        `checkpoint` takes. Raises LeaseLost when the lease is another's, and Stopped
        when the run is not running: nothing is written then."""
        failpoints.reached("shard.before_checkpoint")
        work = self.work
        if not work.store.checkpoint(
            self.shard, self.walked, lease=work.lease, **changes
        ):
            self._why_refused()
        self.saved = work.clock()
        failpoints.reached("shard.after_checkpoint")

    def _why_refused(self) -> None:
        found = self.work.store.load_shard(self.shard.run, self.shard.index)
        if found is None or found.fence != self.shard.fence:
            raise LeaseLost(f"{self.shard.run}[{self.shard.index}]")
        raise Stopped

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What the block moves and counts goes back when it raises."""
        before = self.cursor, self.done, self.failed, self.skipped
        try:
            yield
        except BaseException as error:
            self.cursor, self.done, self.failed, self.skipped = before
            self.is_doubtful = self.is_doubtful or not _is_rolled_back(error)
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The same, and what the block writes to the database goes back, too.

        An error at the commit is the callback's: a constraint that is only checked
        there, or a transaction that it has broken. RowRaised, then. One of a hook that
        the callback has put on the commit changes nothing any more.
        """
        alias = self.work.description.database
        commits: list[int] = []
        try:
            with self._obeying(), self.all_or_nothing():
                try:
                    with transaction.atomic(using=alias):
                        note_commit(alias, commits)
                        yield
                except Exception:
                    if not commits:
                        raise
                    logger.exception(
                        "A hook on the commit of rows of iteration %s raised; the rows "
                        "are done, later hooks are lost.",
                        self.shard.run,
                    )
        except OperationalError:
            raise  # the server is away, or chose us as the victim of a deadlock
        except DatabaseError as error:
            raise RowRaised(error) from error

    @contextmanager
    def _obeying(self) -> Iterator[None]:
        """What the callback asks of the run is done after the block, and noticed."""
        with requests.waiting(self.shard.run) as asked:
            yield
        if asked:
            self.saved -= CHECKPOINT  # look again at once

    # The callback

    def call(self, value: Any) -> None:
        """Call the function with one row; raises RowRaised."""
        self.call_with([value] if self.work.description.batch_size else value)

    def call_with(self, given: Any) -> None:
        """Call the function with what it takes, a row or a list; raises RowRaised."""
        try:
            awaited(self.work.function(given))
        except UNCAUGHT:
            raise
        except BaseException as error:
            raise RowRaised(error) from error


def _is_rolled_back(error: BaseException) -> bool:
    """Whether an error tells that nothing was committed."""
    if isinstance(error, DatabaseError):
        return not isinstance(error, OperationalError)
    return isinstance(error, RowRaised | Stopped | LeaseLost)
