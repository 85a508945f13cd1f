"""Rows whose callback raised, or killed its process: the policy of the run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.db import Error

from cloudtask.delivering.failed import storable
from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure, Retry
from cloudtask.iteration.keys import key_of, text_of
from cloudtask.iteration.legs import End, Leg, RowRaised
from cloudtask.options import Backoff, as_timedelta
from cloudtask.runs import FailureState, RowFailure, RunState

logger = logging.getLogger("cloudtask")

ROW_ATTEMPTS = 25  # of a row with on_error="retry", when the task does not say
ROW_BACKOFF = Backoff(min=timedelta(seconds=1), max=timedelta(hours=1), doublings=12)
AT_ONCE = 50  # rows that wait and are read in one query
LONGEST = 10_000  # characters of a traceback that are kept

# Told of each error that is about to be recorded, and of on_error; the last one alone.
watchers: list[Callable[[BaseException, str], None]] = []


def treat(leg: Leg, key: Any, error: BaseException) -> End | None:
    """What follows when the row just above the cursor has raised `error`."""
    policy = leg.work.description.on_error
    if policy in ("pause", "abort") and not isinstance(error, Retry):
        return _stop_run(leg, key, error)
    gives_up = _gives_up(leg, error, attempts=1)
    with leg.all_or_nothing():
        leg.cursor = key
        if gives_up:
            _count_given_up(leg)
        _record(leg, key, error, attempts=1, gives_up=gives_up)
    # A row that asks for another try has not failed.
    return _check_limit(leg) if gives_up or not isinstance(error, Retry) else None


def _gives_up(leg: Leg, error: BaseException, *, attempts: int) -> bool:
    if attempts >= leg.work.row_attempts or isinstance(error, PermanentTaskFailure):
        return True
    return leg.work.description.on_error == "skip" and not isinstance(error, Retry)


def quarantine(leg: Leg) -> End | None:
    """Set aside the row whose callback has killed its process again and again."""
    text = "The process died while the callback ran for this row."
    suspect = leg.shard.suspect
    key = key_of(suspect)
    if leg.work.description.on_error in ("pause", "abort"):
        return _stop(leg, f"Row {key!r}: {text}")
    with leg.all_or_nothing():
        leg.cursor = key
        _count_given_up(leg)
        leg.save(
            failure=RowFailure(
                run=leg.shard.run,
                shard=leg.shard.index,
                key=str(suspect),
                state=FailureState.KILLED,
                attempts=leg.shard.deaths,
                error=text,
            )
        )
    return _check_limit(leg)


def _count_given_up(leg: Leg) -> None:
    if leg.work.description.on_error == "skip":
        leg.skipped += 1
    else:
        leg.failed += 1


def _record(
    leg: Leg, key: Any, error: BaseException, *, attempts: int, gives_up: bool
) -> None:
    for watcher in watchers[-1:]:
        watcher(error, leg.work.description.on_error)
    failure = RowFailure(
        run=leg.shard.run,
        shard=leg.shard.index,
        key=str(text_of(key)),
        state=FailureState.FAILED if gives_up else FailureState.WAITING,
        attempts=attempts,
        error=_named(error)[:LONGEST],
        traceback=storable("".join(traceback.format_exception(error)))[-LONGEST:],
    )
    leg.save(failure=failure, delay=_delay(error, attempts))


def _named(error: BaseException) -> str:
    """The error as text that any database takes."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  the row has failed, whatever its error says
        text = "<exception str() failed>"
    return storable(f"{type(error).__name__}: {text}")


def _delay(error: BaseException, attempts: int) -> timedelta:
    if isinstance(error, Retry) and error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    return ROW_BACKOFF.delay(attempts)


def _stop_run(leg: Leg, key: Any, error: BaseException) -> End:
    """By on_error "pause" or "abort"; the row stays above the cursor."""
    why = f"Row {key!r} raised {_named(error)}"
    logger.error("%s, which stops iteration %s.", why, leg.shard.run, exc_info=error)
    if leg.work.description.on_error == "abort":
        # Nobody will call it again: it is told among the failures.
        with leg.all_or_nothing():
            _count_given_up(leg)
            _record(leg, key, error, attempts=1, gives_up=True)
    return _stop(leg, why)


def _stop(leg: Leg, why: str) -> End:
    leg.save()
    is_abort = leg.work.description.on_error == "abort"
    leg.work.store.change_run(
        leg.shard.run,
        to=RunState.ABORTED if is_abort else RunState.PAUSED,
        only_from=[RunState.RUNNING],
        error=why,
    )
    return End.STOPPED


def _check_limit(leg: Leg) -> End | None:
    """Pause the run when more rows failed than `max_failures` allows."""
    limit = leg.work.description.max_failures
    if limit is None:
        return None
    if isinstance(limit, float) and limit < 1:
        run = leg.work.store.load_run(leg.shard.run)
        if run is None or not run.is_planned:
            return None  # a share of how many is not known yet
        limit = limit * run.total
    failures = leg.work.store.count_failures(leg.shard.run)
    if failures <= limit:
        return None
    leg.work.store.change_run(
        leg.shard.run,
        to=RunState.PAUSED,
        only_from=[RunState.RUNNING],
        error=f"{failures} rows failed, more than max_failures allows.",
    )
    return End.STOPPED


# Rows that are tried again


def retry_rows(leg: Leg) -> tuple[End | None, float | None]:
    """Call the function for rows whose next try is due.

    Returns why the leg must end, if it must, and the seconds until the next row is due,
    None when no row waits.
    """
    while True:
        due, seconds = leg.work.store.waiting_failures(
            leg.shard.run, leg.shard.index, limit=AT_ONCE
        )
        if not due:
            return None, seconds
        values = _values_of(leg, [key_of(one.key) for one in due])
        for failure in due:
            if end := leg.must_end() or _retry(leg, failure, values):
                return end, seconds


@dataclass(frozen=True, slots=True)
class Unread:
    """In the place of a row that can't be read."""

    error: BaseException


def _values_of(leg: Leg, keys: list[Any]) -> dict[Any, Any]:
    """The rows that are there, each alone if they can't be read together."""
    try:
        return leg.work.source.values_of(keys)
    except (Error, CloudTaskError):
        raise
    except Exception as error:  # noqa: BLE001  a row's own code, such as from_db_value
        if len(keys) == 1:
            return {keys[0]: Unread(error)}
    return {k: v for key in keys for k, v in _values_of(leg, [key]).items()}


def _retry(leg: Leg, failure: RowFailure, values: dict[Any, Any]) -> End | None:
    key = key_of(failure.key)
    if key not in values:
        # Deleted, or out of the filter: there is nothing left to do for it.
        with leg.all_or_nothing():
            leg.skipped += 1
            leg.save(resolved=failure.key)
        return None
    if failure.attempts >= leg.work.row_attempts:
        return _killed_last(leg, failure)
    tried = replace(failure, attempts=failure.attempts + 1)
    # Written before the call: a row that kills its process uses up its tries, too.
    leg.save(failure=tried, delay=ROW_BACKOFF.delay(tried.attempts))
    try:
        with _perhaps_atomic(leg):
            if isinstance(values[key], Unread):
                raise RowRaised(values[key].error)
            leg.call(values[key])
            leg.done += 1
            leg.save(resolved=failure.key)
    except RowRaised as raised:
        return _failed_again(leg, key, tried, raised.error)
    return None


def _perhaps_atomic(leg: Leg) -> AbstractContextManager[Any]:
    """One transaction with the callback, when the run asks for that."""
    if leg.work.description.atomic:
        return leg.transaction()
    return leg.all_or_nothing()


def _killed_last(leg: Leg, failure: RowFailure) -> End | None:
    """The last try of the row neither returned nor raised."""
    with leg.all_or_nothing():
        _count_given_up(leg)
        leg.save(failure=replace(failure, state=FailureState.KILLED))
    return _check_limit(leg)


def _failed_again(
    leg: Leg, key: Any, tried: RowFailure, error: BaseException
) -> End | None:
    gives_up = _gives_up(leg, error, attempts=tried.attempts)
    with leg.all_or_nothing():
        if gives_up:
            _count_given_up(leg)
        _record(leg, key, error, attempts=tried.attempts, gives_up=gives_up)
    return _check_limit(leg) if gives_up or not isinstance(error, Retry) else None
