"""Ends a run: calls finalize once, after all shards, or `on_failure` in its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.db import transaction

from cloudtask import carriers, failpoints, stores
from cloudtask.context import current, entered
from cloudtask.delivering.calls import awaited
from cloudtask.delivering.errors import UNCAUGHT, storable
from cloudtask.discretion import said
from cloudtask.exceptions import (
    PayloadError,
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
    TaskNotFound,
)
from cloudtask.iteration.announcing import announce
from cloudtask.iteration.description import (
    Description,
    check_signature,
    unsealed,
)
from cloudtask.iteration.handle import Iteration
from cloudtask.iteration.steps import (
    A_MOMENT,
    FINALIZE,
    LOOK_AGAIN,
    STOP,
    budget,
    in_context,
    options_of,
    say,
    step,
)
from cloudtask.options import Options
from cloudtask.quotas import HORIZON
from cloudtask.runs import STOPPED, LeaseLost, Run, RunState
from cloudtask.stores import Store
from cloudtask.stores.runs import LOST_KEY

LAST_MARGIN = timedelta(seconds=30)  # of the lease of the last function

logger = logging.getLogger("cloudtask")


class GivenUp(PermanentTaskFailure):
    """The last function of a run will not be called again; its error is the cause."""


@dataclass(frozen=True, slots=True)
class Last:
    """The last function of a run, None for none, and the state after it."""

    what: str
    to: RunState
    function: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    @property
    def given_up(self) -> RunState:
        """The state if the function is given up."""
        return self.to if self.to in STOPPED else RunState.FAILED


# The steps


@step(FINALIZE)
def finalize(run_id: str, generation: int) -> None:
    """Call finalize and end the run: committed once.

    It is entered again only if the process is killed inside it, or if it raises.
    """
    carriers.note(run=run_id)
    store = stores.store()
    run = store.load_run(run_id)
    if run is None or _is_replaced(run, generation):
        return
    if run.state is RunState.FINALIZING:
        _end(store, run, Last("finalize", RunState.FINISHED))
        failpoints.reached("finalize.after_settle")
        run = store.load_run(run_id)
    if run is not None and run.state is RunState.FINISHED and not run.keep:
        _summarize(store, run)


def _is_replaced(run: Run, generation: int) -> bool:
    """Whether the step has a new number. The caller that gave it the number enqueues
    it. If that one is killed first, nothing touches the run, and the sweeper finds
    it."""
    return run.generation != generation


def _summarize(store: Store, run: Run) -> None:
    """Keep only the counts. Rows that failed can still be retried, so a run that has
    some is kept as it is."""
    if store.count_failures(run.id) == 0:
        store.summarize_run(run.id)


@step(STOP)
def stopped(run_id: str, generation: int) -> None:
    """Call `on_failure` for a run that was cancelled or aborted, and end it."""
    carriers.note(run=run_id)
    store = stores.store()
    run = store.load_run(run_id)
    if run is None or _is_replaced(run, generation):
        return
    if run.state not in STOPPED or run.finished_at is not None:
        return
    if store.is_at_work(run_id):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)
    _end(store, run, Last("on_failure", run.state))


# What both do


def _end(store: Store, found: Run, last: Last) -> None:
    """Call the last function of a run, and end the run with it."""
    try:
        description = unsealed(found.description)
    except PayloadError as error:
        _end_unread(store, found, last, error)
        return
    try:
        last = _readied(found, last, description)
    except (PayloadError, TaskNotFound, TypeError) as error:
        # The next version of the application may have the function again.
        is_gone = isinstance(error.__cause__, TaskNotFound)
        say(store, found, f"{last.what} waits: {error.__cause__ if is_gone else error}")
        store.touch_run(found.id)
        raise
    failpoints.reached("finalize.before_lease")
    run = _acquired(store, found, last, budget(last.options) + LAST_MARGIN)
    _check_calls(store, found, run, last)
    try:
        _called(store, run, last)
    except UNCAUGHT:
        raise
    except BaseException as error:
        _after_error(store, run, last, error)
        raise


def _readied(run: Run, last: Last, description: Description) -> Last:
    """`last` with its function. Raises PayloadError or TaskNotFound if this version
    does not have it, and TypeError if it does not take its arguments."""
    if run.finished_at is not None:
        return last  # it was called before: the run was opened again for failed rows
    function = description.last_function(last.what)
    args, kwargs = description.call_arguments()
    if function is not None:
        check_signature(last.what, function, args, kwargs)
    options = getattr(function, "options", None)
    if not isinstance(options, Options):
        # It travels as the rows do; their attempts are their own.
        options = replace(options_of(run), max_attempts=None)
    return replace(last, function=function, args=args, kwargs=kwargs, options=options)


def _acquired(store: Store, found: Run, last: Last, lease: timedelta) -> Run:
    is_call = last.function is not None
    run = store.acquire_run(found.id, state=found.state, lease=lease, is_call=is_call)
    if run is None:
        raise SingularTaskFailure(
            f"{last.what} of iteration {found.id} is running in another delivery."
        )
    return run


def _check_calls(store: Store, found: Run, run: Run, last: Last) -> None:
    """Raise GivenUp if the worker was killed in the last call that may be made: its
    lease was not given back, and no other delivery had one since."""
    limit = last.options.max_attempts
    was_killed = found.lease_until is not None and run.fence == found.fence + 1
    if limit is None or run.attempts <= limit or not was_killed:
        return
    text = f"{last.what}: the worker was killed in call {run.attempts - 1} of {limit}."
    _give_up(store, run, last, text)
    raise GivenUp(text)


def _end_unread(store: Store, found: Run, last: Last, error: PayloadError) -> None:
    """End a run whose description can't be opened, by no other version either."""
    run = _acquired(store, found, last, A_MOMENT)
    text = f"{last.what} can't be called: {error}"
    logger.error("Iteration %s: %s", run.id, text)
    _give_up(store, run, last, f"{text} {LOST_KEY}")


def _called(store: Store, run: Run, last: Last) -> None:
    """Call the function and end the run; in one transaction if the task is atomic and
    the run is in its database."""
    context = current(required=True)
    inside = replace(
        context,
        iteration=Iteration(run.id, run),
        attempt=run.attempts,
        max_attempts=last.options.max_attempts,
    )
    with entered(inside):
        if last.options.atomic and store.database == last.options.database:
            with transaction.atomic(using=last.options.database):
                _call_and_settle(store, run, last)
        else:
            _call_and_settle(store, run, last)


def _call_and_settle(store: Store, run: Run, last: Last) -> None:
    if last.function is not None:
        failpoints.reached("finalize.before_call")
        with in_context(run):
            awaited(last.function(*last.args, **last.kwargs))
        failpoints.reached("finalize.after_call")
    # The reason why a run was stopped stays, as long as the run does.
    error = None if last.to in STOPPED else ""
    if not store.settle_run(run, to=last.to, error=error):
        raise LeaseLost(f"{run.id}: its last function took longer than its lease.")
    announce(run, last.to, run.error if last.to in STOPPED else "")


def _after_error(store: Store, run: Run, last: Last, error: BaseException) -> None:
    """Give the lease back and store what happened. End the run if no call is left, and
    raise GivenUp."""
    if isinstance(error, Retry):
        store.settle_run(run, to=None, delay=_delay(error))
        return
    text = f"{last.what}: {type(error).__name__}: {said(error)}"
    limit = last.options.max_attempts
    is_hopeless = isinstance(error, PermanentTaskFailure)
    if not is_hopeless and (limit is None or run.attempts < limit):
        store.settle_run(run, to=None, waiting=storable(text))
    elif _give_up(store, run, last, text) and not is_hopeless:
        raise GivenUp(text) from error


def _give_up(store: Store, run: Run, last: Last, why: str) -> bool:
    """End the run without its last function; False if another delivery has the
    lease."""
    text = storable(why)
    if last.given_up in STOPPED:
        is_settled = store.settle_run(run, to=last.given_up, waiting=text)
    else:
        is_settled = store.settle_run(run, to=last.given_up, error=text)
    if is_settled:
        announce(run, last.given_up, text)
    return is_settled


def _delay(error: Retry) -> timedelta | None:
    if error.delay is None:
        return None
    # A timedelta overflows soon; the service would wait no longer either.
    delay = error.delay
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    return timedelta(seconds=min(seconds, HORIZON))
