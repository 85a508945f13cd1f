"""Rows whose callback raised an error, or killed its worker: the policy of the run."""

from __future__ import annotations

import logging
import traceback
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.db import Error

from cloudtask import signals
from cloudtask.delivering.errors import storable
from cloudtask.discretion import said
from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure, Retry
from cloudtask.iteration.announcing import announce
from cloudtask.iteration.bounds import key_of, text_of
from cloudtask.iteration.leg import End, Leg, RowRaised
from cloudtask.options import Backoff, as_timedelta
from cloudtask.runs import FailureState, RowFailure, RunState

logger = logging.getLogger("cloudtask")

ROW_BACKOFF = Backoff(min=timedelta(seconds=1), max=timedelta(hours=1), doublings=12)
AT_ONCE = 50  # waiting rows that are read in one query
KILLED = "its worker was killed"
LONGEST = 10_000  # characters of a traceback that are kept


def treat(leg: Leg, key: Any, error: BaseException) -> End | None:
    """Record that the row just above the cursor has raised `error`, and pass it or stop
    the run, as the run's `on_error` says."""
    policy = leg.lease.description.on_error
    if policy in ("pause", "abort") and not isinstance(error, Retry):
        return _stop_run(leg, key, error)
    gives_up = _gives_up(leg, error, attempts=1)
    with leg.all_or_nothing():
        leg.cursor = key
        if gives_up:
            _count_given_up(leg)
        _record(leg, key, error, state=_state(gives_up))
    if gives_up:
        _tell_given_up(leg, key, 1, type(error).__name__)
    # A row that asks for another try has not failed.
    return _check_limit(leg) if gives_up or not isinstance(error, Retry) else None


def _state(gives_up: bool) -> FailureState:
    return FailureState.FAILED if gives_up else FailureState.WAITING


def _gives_up(leg: Leg, error: BaseException, *, attempts: int) -> bool:
    if attempts >= leg.lease.row_attempts or isinstance(error, PermanentTaskFailure):
        return True
    return leg.lease.description.on_error == "skip" and not isinstance(error, Retry)


def quarantine(leg: Leg) -> End | None:
    """Set aside the row whose callback has killed its worker again and again."""
    text = "The worker was killed while the callback ran for this row."
    suspect = leg.lease.shard.suspect
    key = key_of(suspect)
    killer = _failure(leg, key, FailureState.KILLED, leg.lease.shard.deaths, text)
    if leg.lease.description.on_error == "pause":
        leg.save(failure=replace(killer, state=FailureState.STOPPED))
        return _stop(leg, f"Row {key!r}: {text}")
    with leg.all_or_nothing():
        leg.cursor = key
        _count_given_up(leg)
        leg.save(failure=killer)
    _tell_given_up(leg, key, killer.attempts, KILLED)
    if leg.lease.description.on_error == "abort":
        return _stop(leg, f"Row {key!r}: {text}")
    return _check_limit(leg)


def _failure(
    leg: Leg, key: Any, state: FailureState, attempts: int, error: str
) -> RowFailure:
    shard = leg.lease.shard
    return RowFailure(
        run=shard.run,
        shard=shard.index,
        key=str(text_of(key)),
        state=state,
        attempts=attempts,
        error=error,
    )


def _count_given_up(leg: Leg) -> None:
    if leg.lease.description.on_error == "skip":
        leg.skipped += 1
    else:
        leg.failed += 1


def _tell_given_up(leg: Leg, key: Any, attempts: int, why: str) -> None:
    """Log that no other try of a row is planned. Its error may quote values of the row,
    so the line has only the kind of the error."""
    run = leg.lease.run
    logger.warning(
        "Row %.200r of iteration %s of %s has failed for good at attempt %d: %s. See "
        "`manage.py cloudtask_iterations show %s --failures`.",
        key,
        run.id,
        run.task,
        attempts,
        why,
        run.id,
    )


def _record(
    leg: Leg,
    key: Any,
    error: BaseException,
    *,
    attempts: int = 1,
    state: FailureState,
) -> None:
    """Store the failure of a row together with the progress, and tell of it."""
    signals.row_failed.send_robust(
        sender=leg.lease.run.task,
        run=leg.lease.run.id,
        key=key,
        error=error,
        on_error=leg.lease.description.on_error,
    )
    failure = _failure(leg, key, state, attempts, _named(error)[:LONGEST])
    leg.save(
        failure=replace(failure, traceback=traceback_of(error)),
        delay=_delay(error, attempts),
    )


def traceback_of(error: BaseException) -> str:
    """The traceback of a row's error, as its failure has it."""
    return storable("".join(traceback.format_exception(error)))[-LONGEST:]


def _named(error: BaseException) -> str:
    """The error as text that any database takes."""
    return storable(f"{type(error).__name__}: {said(error)}")


def _delay(error: BaseException, attempts: int) -> timedelta:
    if isinstance(error, Retry) and error.delay is not None:
        return as_timedelta(error.delay, "Retry.delay")
    return ROW_BACKOFF.delay(attempts)


def _stop_run(leg: Leg, key: Any, error: BaseException) -> End:
    """Stop the run, as `on_error` says, and record the row that did it."""
    why = f"Row {key!r} raised {_named(error)}"
    logger.error("%s, which stops iteration %s.", why, leg.lease.run.id, exc_info=error)
    if leg.lease.description.on_error == "pause":
        # The row stays above the cursor, and is called again after resume().
        _record(leg, key, error, state=FailureState.STOPPED)
        return _stop(leg, why)
    with leg.all_or_nothing():
        leg.cursor = key
        _count_given_up(leg)
        _record(leg, key, error, state=FailureState.FAILED)
    return _stop(leg, why)


def _stop(leg: Leg, why: str) -> End:
    is_abort = leg.lease.description.on_error == "abort"
    is_changed = leg.lease.store.change_run(
        leg.lease.run.id,
        to=RunState.ABORTED if is_abort else RunState.PAUSED,
        only_from=[RunState.RUNNING],
        error=why,
    )
    if is_changed and not is_abort:  # on_failure is still to be called
        announce(leg.lease.run, RunState.PAUSED, why)
    return End.STOPPED


def _check_limit(leg: Leg) -> End | None:
    """Pause the run when more rows failed than `max_failures` allows."""
    limit = leg.lease.description.max_failures
    if limit is None:
        return None
    if isinstance(limit, float) and limit < 1:
        run = leg.lease.store.load_run(leg.lease.run.id)
        if run is None or not run.is_planned:
            return None  # a share of how many is not known yet
        limit = limit * run.total
    failures = leg.lease.store.count_failures(leg.lease.run.id)
    if failures <= limit:
        return None
    why = f"{failures} rows failed, more than max_failures allows."
    if leg.lease.store.change_run(
        leg.lease.run.id, to=RunState.PAUSED, only_from=[RunState.RUNNING], error=why
    ):
        announce(leg.lease.run, RunState.PAUSED, why)
    return End.STOPPED


# Rows that are tried again


def retry_rows(leg: Leg) -> tuple[End | None, float | None]:
    """Call the function for rows whose next try is due.

    Returns why the leg must end, or None, and the seconds until the next row is due, or
    None if no row waits.
    """
    while True:
        due, seconds = leg.lease.store.waiting_failures(
            leg.lease.run.id, leg.lease.shard.index, limit=AT_ONCE
        )
        if not due:
            return None, seconds
        values = _values_of(leg, [key_of(one.key) for one in due])
        for failure in due:
            if end := leg.must_end() or _retry(leg, failure, values):
                return end, seconds


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a row that can't be read."""

    error: Exception


def _values_of(leg: Leg, keys: list[Any]) -> dict[Any, Any]:
    """The rows that still exist, each alone if they can't be read together."""
    try:
        return leg.lease.source.values_of(keys)
    except (Error, CloudTaskError):
        raise
    except Exception as error:  # noqa: BLE001  a row's own code, such as from_db_value
        if len(keys) == 1:
            return {keys[0]: Unread(error)}
    return {k: v for key in keys for k, v in _values_of(leg, [key]).items()}


def _retry(leg: Leg, failure: RowFailure, values: dict[Any, Any]) -> End | None:
    key = key_of(failure.key)
    if key not in values:
        _pass_gone(leg, failure)
        return None
    if failure.attempts >= leg.lease.row_attempts:
        return _killed_last(leg, failure)
    tried = replace(failure, attempts=failure.attempts + 1)
    # Written before the call, so that a row that kills its worker uses up its tries.
    leg.save(failure=tried, delay=ROW_BACKOFF.delay(tried.attempts))
    try:
        with _perhaps_atomic(leg):
            _try_again(leg, tried, values[key])
    except RowRaised as raised:
        return _failed_again(leg, key, tried, raised.error)
    return None


def _try_again(leg: Leg, tried: RowFailure, value: Any) -> None:
    """Call the function and forget the failure; raises RowRaised."""
    if isinstance(value, Unread):
        raise RowRaised(value.error)
    if leg.lease.description.atomic == "row":
        there = leg.locked(key_of(tried.key))
        if not there:
            _pass_gone(leg, tried)
            return
        value = there[0]
    leg.call(value)
    leg.done += 1
    leg.save(resolved=tried.key)


def _pass_gone(leg: Leg, failure: RowFailure) -> None:
    """Count a row as skipped that is deleted, or no longer in the queryset."""
    with leg.all_or_nothing():
        leg.skipped += 1
        leg.save(resolved=failure.key)


def _perhaps_atomic(leg: Leg) -> AbstractContextManager[Any]:
    """One transaction with the callback, if the run asks for that."""
    if leg.lease.description.atomic:
        return leg.transaction()
    return leg.all_or_nothing()


def _killed_last(leg: Leg, failure: RowFailure) -> End | None:
    """Record that the last try of the row neither returned nor raised."""
    with leg.all_or_nothing():
        _count_given_up(leg)
        leg.save(failure=replace(failure, state=FailureState.KILLED))
    _tell_given_up(leg, key_of(failure.key), failure.attempts, KILLED)
    return _check_limit(leg)


def _failed_again(
    leg: Leg, key: Any, tried: RowFailure, error: BaseException
) -> End | None:
    policy = leg.lease.description.on_error
    stops = policy in ("pause", "abort") and not isinstance(error, Retry)
    gives_up = _gives_up(leg, error, attempts=tried.attempts)
    gives_up = gives_up or (stops and policy == "abort")
    with leg.all_or_nothing():
        if gives_up:
            _count_given_up(leg)
        state = _state(gives_up)
        _record(leg, key, error, attempts=tried.attempts, state=state)
    if gives_up:
        _tell_given_up(leg, key, tried.attempts, type(error).__name__)
    if stops:
        return _stop(leg, f"Row {key!r} raised {_named(error)}")
    return _check_limit(leg) if gives_up or not isinstance(error, Retry) else None
