"""One leg of a shard: from the moment its lease is ours until it is given back.

The loop is as bare as a loop over the rows can be: one call, one try, one look at the
clock. All else happens every CHECKPOINT seconds, at the end of a page, or on an error.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any

from django.db import transaction

from cloudtask import codec, failpoints
from cloudtask.exceptions import PermanentTaskFailure, Retry
from cloudtask.iteration import stopping
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.description import Description
from cloudtask.iteration.sources import Page, Source
from cloudtask.message import Backoff, as_timedelta
from cloudtask.stores import Store
from cloudtask.stores.runs import (
    FailureState,
    LeaseLost,
    RowFailure,
    Run,
    RunState,
    Shard,
    Walked,
)

CHECKPOINT = 2.0  # seconds between two writes of the cursor
PAGE_TIME = 1.0  # seconds of work that a page should be
PAGE_MIN, PAGE_FIRST, PAGE_MAX = 50, 200, 2000  # rows
CAREFUL_FROM = 2  # deaths at one cursor
ROW_ATTEMPTS = 25  # of a row with on_error="retry", when the task does not say
ROW_BACKOFF = Backoff(min=timedelta(seconds=1), max=timedelta(hours=1), doublings=12)
LONGEST = 10_000  # characters of a traceback that are kept


class End(Enum):
    """Why a leg is over."""

    WALKED = "walked"  # no row is left above the cursor
    OUT_OF_TIME = "out of time"
    STOPPED = "stopped"  # the run is paused, cancelled or aborted


class _RowFailed(Exception):
    """A row of a page that is one transaction raised: the page is rolled back."""


@dataclass(frozen=True, slots=True)
class Work:
    """What does not change during a leg. `budget` and `lease` are in seconds, `clock`
    is monotonic."""

    store: Store
    run: Run
    description: Description
    source: Source
    function: Callable[..., Any]
    row_attempts: int
    lease: timedelta
    budget: float
    clock: Callable[[], float] = time.monotonic


def key_of(text: str | None) -> Any:
    """A key from a shard's row."""
    return None if text is None else codec.loads(text.encode())


def text_of(key: Any) -> str | None:
    """A key for a shard's row."""
    return None if key is None else codec.dumps(key).decode()


class Leg:
    """Walks `shard` for as long as the budget lasts."""

    def __init__(self, work: Work, shard: Shard) -> None:
        self.work = work
        self.shard = shard
        self.high = key_of(shard.high)
        self.cursor: Any = key_of(shard.low if shard.cursor is None else shard.cursor)
        self.done, self.failed, self.skipped = shard.done, shard.failed, shard.skipped
        self.is_walked = shard.is_walked
        self.size = PAGE_FIRST
        self.slowest = 0.0
        self.started = self.saved = work.clock()

    @staticmethod
    def untouched(shard: Shard) -> Walked:
        """The progress of a shard whose leg did nothing."""
        return Walked(
            cursor=shard.cursor,
            done=shard.done,
            failed=shard.failed,
            skipped=shard.skipped,
            is_walked=shard.is_walked,
        )

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

    def walk(self) -> End:
        """Call the function for rows above the cursor until there is none, or the leg
        must end. Raises LeaseLost."""
        if self.is_walked:
            return End.WALKED
        is_careful = self.shard.deaths >= CAREFUL_FROM
        while True:
            if end := self._must_end():
                return end
            failpoints.reached("shard.before_page")
            page = self._next_page()
            if not page.values:
                self.is_walked = True
                return End.WALKED
            before = self.work.clock()
            end = self._run(page, careful=is_careful)
            if end is not None:
                return end
            self._resize(len(page.values), self.work.clock() - before)

    def _next_page(self) -> Page:
        size = self.size
        if batch := self.work.description.batch_size:
            size = max(batch, size - size % batch)
        return self.work.source.page(Bounds(self.cursor, self.high), size)

    def _resize(self, rows: int, took: float) -> None:
        """Pages of about PAGE_TIME, growing no faster than they double."""
        fitting = int(rows * PAGE_TIME / max(took, 1e-6))
        self.size = max(PAGE_MIN, min(PAGE_MAX, self.size * 2, fitting))

    def _run(self, page: Page, *, careful: bool) -> End | None:
        atomic = self.work.description.atomic
        if careful:
            return self._one_by_one(page, self._careful_call)
        if atomic == "row":
            return self._one_by_one(page, self._atomic_call)
        if atomic == "page":
            return self._page_at_once(page)
        if self.work.description.batch_size:
            return self._batches(page)
        return self._plain(page)

    # The plain loop

    def _plain(self, page: Page) -> End | None:
        function, clock = self.work.function, self.work.clock
        started, counted = self.cursor, 0
        before = clock()
        due = self._next_look()
        for place, value in enumerate(page.values):
            try:
                function(value)
            except Exception as error:  # noqa: BLE001  the policy decides
                self._advance(page, place, place - counted, started)
                counted = place + 1
                if end := self._failed(page.key_at(place), error):
                    return end
                before = clock()
                continue
            now = clock()
            if now - before > self.slowest:
                self.slowest = now - before
            before = now
            if now >= due:
                self._advance(page, place + 1, place + 1 - counted, started)
                counted = place + 1
                self.save()
                if end := self._must_end():
                    return end
                due = self._next_look()
        places = len(page.values)
        self._advance(page, places, places - counted, started)
        return None

    def _advance(self, page: Page, places: int, succeeded: int, started: Any) -> None:
        """Move the cursor behind the first `places` rows of the page."""
        self.done += succeeded
        self.cursor = page.key_at(places - 1) if places else started

    def _next_look(self) -> float:
        return min(self.saved + CHECKPOINT, self._deadline())

    def _deadline(self) -> float:
        """When the leg must end to be answered in time."""
        margin = max(self.work.description.margin, 2 * self.slowest)
        # At least a tenth is work: a target may have a short deadline.
        return self.started + max(self.work.budget - margin, self.work.budget / 10)

    def _must_end(self) -> End | None:
        now = self.work.clock()
        if now >= self._deadline() or stopping.asked():
            return End.OUT_OF_TIME
        if now - self.saved >= CHECKPOINT:
            self.save()
        return None

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

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What the block moves and counts goes back when it raises."""
        before = self.cursor, self.done, self.failed, self.skipped
        try:
            yield
        except BaseException:
            self.cursor, self.done, self.failed, self.skipped = before
            raise

    def _why_refused(self) -> None:
        found = self.work.store.load_shard(self.shard.run, self.shard.index)
        if found is None or found.fence != self.shard.fence:
            raise LeaseLost(f"{self.shard.run}[{self.shard.index}]")
        raise Stopped

    # Loops that write for every row

    def _one_by_one(self, page: Page, call: Callable[[Any, Any], None]) -> End | None:
        for place, value in enumerate(page.values):
            key = page.key_at(place)
            before = self.work.clock()
            try:
                call(key, value)
            except (LeaseLost, Stopped):
                raise
            except Exception as error:  # noqa: BLE001  the policy decides
                if end := self._failed(key, error):
                    return end
            self.slowest = max(self.slowest, self.work.clock() - before)
            if end := self._must_end():
                return end
        return None

    def _call(self, value: Any) -> None:
        if self.work.description.batch_size:
            value = [value]
        self.work.function(value)

    def _careful_call(self, key: Any, value: Any) -> None:
        """The key is written before the call: if the process dies, it is known why."""
        self.save(suspect=text_of(key))
        if self.work.description.atomic:
            self._atomic_call(key, value)
            return
        self._call(value)
        self.cursor = key
        self.done += 1
        self.save()

    def _atomic_call(self, key: Any, value: Any) -> None:
        alias = self.work.description.database
        with self._all_or_nothing(), transaction.atomic(using=alias):
            self._call(value)
            self.cursor, self.done = key, self.done + 1
            self.save()

    def _page_at_once(self, page: Page) -> End | None:
        try:
            self._atomic_page(page)
        except _RowFailed:
            return self._one_by_one(page, self._atomic_call)
        return None

    def _atomic_page(self, page: Page) -> None:
        """The writes of all rows, and the cursor behind them, in one transaction."""
        alias = self.work.description.database
        with self._all_or_nothing(), transaction.atomic(using=alias):
            self._call_all(page.values)
            self.cursor = page.key_at(len(page.values) - 1)
            self.done += len(page.values)
            self.save()

    def _call_all(self, values: Sequence[Any]) -> None:
        try:
            for group in self._groups(values):
                self.work.function(group)
        except Exception as error:
            raise _RowFailed from error

    def _groups(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values, or lists of `batch_size` of them."""
        size = self.work.description.batch_size
        if size is None:
            return values
        return [list(values[at : at + size]) for at in range(0, len(values), size)]

    def _batches(self, page: Page) -> End | None:
        """Lists of values; a list that raises is tried again value by value, so that
        the one at fault is found."""
        at = 0
        for group in self._groups(page.values):
            before = self.work.clock()
            try:
                self.work.function(group)
            except Exception:  # noqa: BLE001  each value gets its own verdict
                part = Page(group, partial(_key_behind, page, at))
                if end := self._one_by_one(part, self._lone_call):
                    return end
            else:
                self.done += len(group)
                self.cursor = page.key_at(at + len(group) - 1)
            at += len(group)
            self.slowest = max(self.slowest, self.work.clock() - before)
            if end := self._must_end():
                return end
        return None

    def _lone_call(self, key: Any, value: Any) -> None:
        self._call(value)
        self.cursor = key
        self.done += 1

    # Rows that raise

    def _failed(self, key: Any, error: Exception) -> End | None:
        """Treat a row that raised, just above the cursor, by the run's policy."""
        policy = self.work.description.on_error
        if policy in ("pause", "abort"):
            return self._stop_run(policy, key, error)
        gives_up = policy == "skip" or isinstance(error, PermanentTaskFailure)
        with self._all_or_nothing():
            self.cursor = key
            if policy == "skip":
                self.skipped += 1
            elif gives_up:
                self.failed += 1
            self._save_failure(key, error, attempts=1, gives_up=gives_up)
        return self._check_limit()

    def _save_failure(
        self, key: Any, error: Exception, *, attempts: int, gives_up: bool
    ) -> None:
        failure = RowFailure(
            run=self.shard.run,
            shard=self.shard.index,
            key=str(text_of(key)),
            state=FailureState.FAILED if gives_up else FailureState.WAITING,
            attempts=attempts,
            error=f"{type(error).__name__}: {error}"[:LONGEST],
            traceback="".join(traceback.format_exception(error))[-LONGEST:],
        )
        self.save(failure=failure, delay=_delay(error, attempts))

    def _stop_run(self, policy: str, key: Any, error: Exception) -> End:
        self.save()
        to = RunState.PAUSED if policy == "pause" else RunState.ABORTED
        self.work.store.change_run(
            self.shard.run,
            to=to,
            only_from=[RunState.RUNNING],
            error=f"Row {key!r} raised {type(error).__name__}: {error}",
        )
        return End.STOPPED

    def _check_limit(self) -> End | None:
        """Pause the run when more rows failed than `max_failures` allows."""
        limit = self.work.description.max_failures
        if limit is None:
            return None
        if limit < 1:
            limit = limit * self.work.run.total
        failures = self.work.store.count_failures(self.shard.run)
        if failures <= limit:
            return None
        self.work.store.change_run(
            self.shard.run,
            to=RunState.PAUSED,
            only_from=[RunState.RUNNING],
            error=f"{failures} rows failed, more than max_failures allows.",
        )
        return End.STOPPED

    # Rows that are tried again

    def retry_rows(self) -> tuple[End | None, float | None]:
        """Call the function for rows whose next try is due.

        Returns why the leg must end, if it must, and the seconds until the next row is
        due, None when no row waits.
        """
        store = self.work.store
        while True:
            due, seconds = store.waiting_failures(
                self.shard.run, self.shard.index, limit=PAGE_MIN
            )
            if not due:
                return None, seconds
            values = self.work.source.values_of([key_of(one.key) for one in due])
            for failure in due:
                if end := self._must_end() or self._retry_row(failure, values):
                    return end, seconds

    def _retry_row(self, failure: RowFailure, values: dict[Any, Any]) -> End | None:
        key = key_of(failure.key)
        store = self.work.store
        if key not in values:
            # Deleted, or out of the filter: there is nothing left to do for it.
            with self._all_or_nothing():
                self.skipped += 1
                self.save(resolved=failure.key)
            return None
        tried = replace(failure, attempts=failure.attempts + 1)
        # Written before the call: a row that kills its process uses up its tries too.
        store.record_failure(tried, delay=ROW_BACKOFF.delay(tried.attempts))
        try:
            with self._all_or_nothing(), self._atomic():
                self._call(values[key])
                self.done += 1
                self.save(resolved=failure.key)
        except (LeaseLost, Stopped):
            raise
        except Exception as error:  # noqa: BLE001  the policy decides
            return self._failed_again(key, tried, error)
        return None

    def _atomic(self) -> AbstractContextManager[Any]:
        """One transaction with the callback, when the run asks for that."""
        if self.work.description.atomic is None:
            return nullcontext()
        return transaction.atomic(using=self.work.description.database)

    def _failed_again(
        self, key: Any, tried: RowFailure, error: Exception
    ) -> End | None:
        gives_up = (
            isinstance(error, PermanentTaskFailure)
            or tried.attempts >= self.work.row_attempts
        )
        with self._all_or_nothing():
            self.failed += gives_up
            self._save_failure(key, error, attempts=tried.attempts, gives_up=gives_up)
        return self._check_limit()

    def quarantine(self) -> None:
        """Set aside the row whose callback has killed its process."""
        failure = RowFailure(
            run=self.shard.run,
            shard=self.shard.index,
            key=str(self.shard.suspect),
            state=FailureState.KILLED,
            attempts=self.shard.deaths,
            error="The process died while the callback ran for this row.",
        )
        with self._all_or_nothing():
            self.cursor = key_of(self.shard.suspect)
            self.failed += 1
            self.save(failure=failure)


class Stopped(Exception):
    """The run is not running any more."""


def _key_behind(page: Page, start: int, place: int) -> Any:
    return page.key_at(start + place)


def _delay(error: Exception, attempts: int) -> timedelta:
    if isinstance(error, Retry) and error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    return ROW_BACKOFF.delay(attempts)
