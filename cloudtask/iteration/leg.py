"""Walks one leg of a shard, from the lease until it is given back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Any

from django.db import DatabaseError, Error, OperationalError, transaction

from cloudtask import failpoints
from cloudtask.delivering.calls import awaited
from cloudtask.delivering.errors import UNCAUGHT, is_abort, summary
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import stopping
from cloudtask.iteration.bounds import Bounds, key_of, text_of
from cloudtask.iteration.lease import Lease
from cloudtask.runs import LeaseLost, Walked
from cloudtask.stores.transactions import note_commit

logger = logging.getLogger("cloudtask")

CHECKPOINT = 2.0  # seconds between two writes of the cursor
SHORTEST_LEASE = 10.0  # seconds; a killed worker is noticed after that long
CAREFUL_FROM = 2  # deaths at one cursor
# Seconds of callbacks. If two legs were killed at one cursor, the row that killed them
# is not farther behind it, or they would have written another cursor.
CAREFUL_FOR = 2 * CHECKPOINT


class End(Enum):
    """Why a leg is over."""

    WALKED = "walked"  # no row is left above the cursor
    OUT_OF_TIME = "out of time"
    STOPPED = "stopped"  # the run is paused, cancelled or aborted


class Stopped(Exception):
    """The run is not RUNNING any more."""


class RowRaised(Exception):
    """The callback raised `error` for a row, or for a list of rows."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(summary(error))
        self.error = error


def is_of_row(error: BaseException) -> bool:
    """Whether an error that came out of a callback is the row's own. A callback may
    raise SystemExit, but so does a server that kills its worker."""
    return not isinstance(error, UNCAUGHT) and not is_abort(error)


class Leg:
    """The progress of a leg, and how long it may go on.

    `cursor` is the key up to which all rows are settled; the counts are the shard's.
    They are doubtful if a transaction that writes them may or may not have been
    committed. `slowest` is the longest time of a row, and `careful` the time of
    callbacks since the row was looked for that killed earlier legs.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        shard = lease.shard
        self.high = key_of(shard.high)
        self.cursor: Any = key_of(shard.low if shard.cursor is None else shard.cursor)
        self.done, self.failed, self.skipped = shard.done, shard.failed, shard.skipped
        self.is_walked, self.stride = shard.is_walked, shard.stride
        self.is_doubtful = False
        self.slowest = self.careful = self.longest_gap = 0.0
        self.started = self.saved = lease.clock()
        self.page_until = 0.0
        self.look_at = self._next_look()

    @property
    def bounds(self) -> Bounds:
        """The keys of the shard that are left."""
        return Bounds(self.cursor, self.high)

    @property
    def walked(self) -> Walked:
        """The progress of the shard, for its row."""
        return Walked(
            cursor=text_of(self.cursor),
            done=self.done,
            failed=self.failed,
            skipped=self.skipped,
            is_walked=self.is_walked,
            stride=self.stride,
            lived=self.lease.clock() - self.started,
        )

    @property
    def certain(self) -> Walked | None:
        """The progress, or None if it is doubtful."""
        return None if self.is_doubtful else self.walked

    @property
    def settled(self) -> int:
        """Rows of the shard that need nothing more."""
        return self.done + self.failed + self.skipped

    @property
    def is_careful(self) -> bool:
        """Whether the next row may be the one that killed earlier legs."""
        deaths = self.lease.shard.deaths
        return deaths >= CAREFUL_FROM and self.careful < CAREFUL_FOR

    # Time

    @property
    def deadline(self) -> float:
        """The time after which no page is begun."""
        lease = self.lease
        margin = max(lease.description.margin, 2 * self.slowest)
        # At least a tenth is work: the deadline of a target may be short.
        allowed = max(lease.budget - margin, lease.budget / 10)
        if lease.limit is not None:
            allowed = min(allowed, lease.limit)
        return self.started + allowed

    @property
    def _end_of_page(self) -> float:
        """The time after which no row of this page is begun. A page that took long to
        read is not thrown away: it may take the time that is there to call a row."""
        lease = self.lease
        last = self.started + lease.budget - max(1.0, 2 * self.slowest)
        return max(self.deadline, min(self.page_until, last))

    def begin_page(self, took: float) -> None:
        """Note that a page is there, and how many seconds it took to read."""
        self.page_until = self.lease.clock() + took

    def end_page(self) -> None:
        """Note that all rows of a page were called."""
        self.page_until = 0.0

    def _next_look(self) -> float:
        return min(self.saved + CHECKPOINT, self._end_of_page)

    def look_again(self) -> None:
        """Have the leg look at its run before the next row."""
        self.look_at = 0.0

    def must_end(self) -> End | None:
        """Whether the leg is over; writes the cursor when it is time to. Raises Stopped
        and LeaseLost."""
        now = self.lease.clock()
        is_late = now >= self._end_of_page
        if now >= self.saved + CHECKPOINT or (now >= self.look_at and not is_late):
            self.save()
        self.look_at = self._next_look()
        return End.OUT_OF_TIME if is_late or stopping.asked() else None

    # Progress

    def passed(self, key: Any, rows: int = 1) -> None:
        """Count `rows` rows as done, up to and including `key`."""
        self.cursor = key
        self.done += rows

    def save(self, **changes: Any) -> None:
        """Write cursor and counts, renew the lease, and make the `changes` that
        `checkpoint` takes. Raises LeaseLost if another delivery has the lease, and
        Stopped if the run is not RUNNING: nothing is written then."""
        failpoints.reached("shard.before_checkpoint")
        lease, now = self.lease, self.lease.clock()
        self.longest_gap = max(self.longest_gap, now - self.saved)
        if not lease.store.checkpoint(
            lease.shard, self.walked, lease=self._lease_time(), **changes
        ):
            self._why_refused()
        self.saved = lease.clock()
        self.look_at = self._next_look()
        failpoints.reached("shard.after_checkpoint")

    def _lease_time(self) -> timedelta:
        """Long enough for the next checkpoint, as far as the earlier ones tell. If the
        worker is killed, its shard waits no longer than that."""
        seconds = max(SHORTEST_LEASE, 3 * self.longest_gap)
        return min(self.lease.time, timedelta(seconds=seconds))

    def _why_refused(self) -> None:
        shard = self.lease.shard
        found = self.lease.store.load_shard(shard.run, shard.index)
        if found is None or found.fence != shard.fence:
            raise LeaseLost(f"{shard.run}[{shard.index}]")
        raise Stopped

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo the progress of the block if it raises."""
        before = self.cursor, self.done, self.failed, self.skipped
        try:
            yield
        except BaseException as error:
            self.cursor, self.done, self.failed, self.skipped = before
            self.is_doubtful = self.is_doubtful or not _is_rolled_back(error)
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The same, and what the block writes to the database is rolled back, too.

        An error at the commit is the callback's, and RowRaised: a constraint that is
        only checked there, or a transaction that the callback has broken. An error of a
        hook that the callback registered for the commit changes nothing any more.
        """
        alias = self.lease.description.database
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
                        "A hook on the commit of rows of iteration %s raised an error. "
                        "The rows are done; hooks that were registered later are lost.",
                        self.lease.run.id,
                    )
        except OperationalError:
            raise  # the server is unavailable, or ended a deadlock by this transaction
        except DatabaseError as error:
            raise RowRaised(error) from error

    @contextmanager
    def _obeying(self) -> Iterator[None]:
        """Do after the block what the callback asks of the run, and notice it."""
        with stopping.waiting(self.lease.run.id) as asked:
            yield
        if asked:
            self.look_again()

    # The callback

    def locked(self, key: Any) -> list[Any]:
        """The row of a key, if it is still there, locked in the open transaction;
        raises RowRaised for a row that can't be read."""
        try:
            return self.lease.source.locked(key)
        except (Error, CloudTaskError):
            raise
        except Exception as error:
            raise RowRaised(error) from error

    def call(self, value: Any) -> None:
        """Call the function with one row; raises RowRaised."""
        self.call_with([value] if self.lease.description.batch_size else value)

    def call_with(self, given: Any) -> None:
        """Call the function with what it takes, a row or a list; raises RowRaised."""
        try:
            awaited(self.lease.function(given))
        except BaseException as error:
            if not is_of_row(error):
                raise
            raise RowRaised(error) from error


def _is_rolled_back(error: BaseException) -> bool:
    """Whether an error tells that nothing was committed."""
    if isinstance(error, DatabaseError):
        return not isinstance(error, OperationalError)
    return isinstance(error, RowRaised | Stopped | LeaseLost)
