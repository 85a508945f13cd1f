"""The end of a run: finalize once, after all shards, or `on_failure` in its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from django.db import transaction

from cloudtask import codec, failpoints
from cloudtask.delivering.calls import awaited
from cloudtask.delivering.errors import UNCAUGHT
from cloudtask.delivering.failed import storable
from cloudtask.exceptions import (
    PayloadError,
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
    TaskNotFound,
)
from cloudtask.iteration.description import Description, unsealed
from cloudtask.iteration.messages import (
    FINALIZE,
    STOP,
    message_of,
    options_of,
    send,
    step,
)
from cloudtask.iteration.running import A_MOMENT, LOST_KEY, inside, say
from cloudtask.options import Options
from cloudtask.quotas import HORIZON
from cloudtask.runs import STOPPED, LeaseLost, Run, RunState
from cloudtask.stores import Store, store
from cloudtask.targets import target

LAST_MARGIN = timedelta(seconds=30)
LOOK_AGAIN = 2.0  # seconds until a stopped run's last legs have noticed, probably

logger = logging.getLogger("cloudtask")


class GivenUp(PermanentTaskFailure):
    """The last function of a run will not be called again; what it raised is the
    cause."""


def finalize_if_done(kept: Store, run_id: str) -> None:
    """Enqueue finalize if no shard is undone. Whoever comes second finds the run
    FINALIZING, and enqueues the same name: the first may have died before it could."""
    failpoints.reached("finalize.before_decision")
    kept.try_finalize(run_id)
    failpoints.reached("finalize.after_decision")
    run = kept.load_run(run_id)
    if run is not None and run.state is RunState.FINALIZING:
        send_finalize(kept, run)


def send_finalize(kept: Store, run: Run) -> None:
    """Enqueue finalize, which is due."""
    send(message_of(FINALIZE, run, run.generation, **_policy(run, "finalize")))


def send_stopped(kept: Store, run_id: str) -> None:
    """Enqueue the end of a run that was cancelled or aborted."""
    run = kept.load_run(run_id)
    if run is not None and run.state in STOPPED and run.finished_at is None:
        send(message_of(STOP, run, run.generation, **_policy(run, "on_failure")))


def _policy(run: Run, what: str) -> dict[str, Any]:
    """The policy of the last function itself, where that can be read. Attempts of the
    step are not calls of the function, which the run counts."""
    try:
        function = _function(unsealed(run.description), what)
    except (PayloadError, TaskNotFound):
        return {}
    options = getattr(function, "options", None)
    return {"timeout": options.timeout} if isinstance(options, Options) else {}


def _function(description: Description, what: str) -> Any:
    """`finalize` or `on_failure`; raises PayloadError or TaskNotFound."""
    encoded = getattr(description, what)
    return None if encoded is None else codec.loads(encoded)


@step(FINALIZE)
def finalize(run_id: str, generation: int) -> None:
    """Call finalize and end the run: committed once.

    It is entered again only when the process dies inside it, or when it raises.
    """
    kept = store()
    run = kept.load_run(run_id)
    if run is None or _is_replaced(run, generation):
        return
    if run.state is RunState.FINALIZING:
        _end(kept, run, _Last("finalize", RunState.FINISHED))
        failpoints.reached("finalize.after_settle")
        run = kept.load_run(run_id)
    if run is not None and run.state is RunState.FINISHED and not run.keep:
        _forget(kept, run)


def _is_replaced(run: Run, generation: int) -> bool:
    """Whether the step has another number by now. Who gave it that enqueues it; where
    they died before they could, nothing touches the run, and the sweeper finds it."""
    return run.generation != generation


def _forget(kept: Store, run: Run) -> None:
    """Delete what nobody will ask for; rows that failed can still be retried."""
    if kept.count_failures(run.id) == 0:
        kept.delete_run(run.id)


@step(STOP)
def stopped(run_id: str, generation: int) -> None:
    """Call `on_failure` for a run that was cancelled or aborted, and end it."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None or _is_replaced(run, generation):
        return
    if run.state not in STOPPED or run.finished_at is not None:
        return
    if kept.is_at_work(run_id):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)
    _end(kept, run, _Last("on_failure", run.state))


@dataclass(frozen=True, slots=True)
class _Last:
    """The last function of a run, None for none, and the state after it."""

    what: str
    to: RunState
    function: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    @property
    def given_up(self) -> RunState:
        """The state without it."""
        return self.to if self.to in STOPPED else RunState.FAILED


def _end(kept: Store, found: Run, last: _Last) -> None:
    """Call the last function of a run, and end the run with it."""
    try:
        description = unsealed(found.description)
    except PayloadError as error:
        _end_unread(kept, found, last, error)
        return
    try:
        last = _read(found, last, description)
    except (PayloadError, TaskNotFound) as error:
        say(kept, found, f"{last.what} waits: {error}")
        kept.touch_run(found.id)
        raise
    failpoints.reached("finalize.before_lease")
    run = _acquired(kept, found, last, budget(last.options) + LAST_MARGIN)
    _check_calls(kept, found, run, last)
    limit = last.options.max_attempts
    try:
        with inside(run, attempt=run.attempts, max_attempts=limit):
            _call_and_settle(kept, run, last)
    except UNCAUGHT:
        raise
    except BaseException as error:
        _after_error(kept, run, last, error)
        raise


def _read(run: Run, last: _Last, description: Description) -> _Last:
    """`last` with what is called; raises PayloadError or TaskNotFound."""
    if run.finished_at is not None:
        return last  # it was called before: the run was opened again for failed rows
    function = _function(description, last.what)
    args, kwargs = description.call_arguments()
    options = getattr(function, "options", None)
    if not isinstance(options, Options):
        # It travels as the rows do; their attempts are their own.
        options = replace(options_of(run), max_attempts=None)
    return replace(last, function=function, args=args, kwargs=kwargs, options=options)


def _acquired(kept: Store, found: Run, last: _Last, lease: timedelta) -> Run:
    is_call = last.function is not None
    run = kept.acquire_run(found.id, state=found.state, lease=lease, is_call=is_call)
    if run is None:
        raise SingularTaskFailure(
            f"{last.what} of iteration {found.id} is running in another delivery."
        )
    return run


def _check_calls(kept: Store, found: Run, run: Run, last: _Last) -> None:
    """Raise GivenUp when the last call that might be ended without a word: the lease
    that was found was not given back, and nobody had another since."""
    limit = last.options.max_attempts
    has_died = found.lease_until is not None and run.fence == found.fence + 1
    if limit is None or run.attempts <= limit or not has_died:
        return
    text = f"{last.what}: its process died in call {run.attempts - 1} of {limit}."
    _give_up(kept, run, last, text)
    raise GivenUp(text)


def _end_unread(kept: Store, found: Run, last: _Last, error: PayloadError) -> None:
    """End a run whose description can't be opened: another version can't, either."""
    run = _acquired(kept, found, last, A_MOMENT)
    text = f"{last.what} can't be called: {error}"
    logger.error("Iteration %s: %s", run.id, text)
    _give_up(kept, run, last, f"{text} {LOST_KEY}")


def is_atomic_here(kept: Store, options: Options) -> bool:
    """Whether a function of these options can commit together with its run."""
    return options.atomic and kept.database == options.database


def _call_and_settle(kept: Store, run: Run, last: _Last) -> None:
    if last.function is None:
        _settle(kept, run, last)
    elif is_atomic_here(kept, last.options):
        with transaction.atomic(using=last.options.database):
            _call(last)
            _settle(kept, run, last)
    else:
        _call(last)
        _settle(kept, run, last)


def _call(last: _Last) -> None:
    failpoints.reached("finalize.before_call")
    awaited(last.function(*last.args, **last.kwargs))
    failpoints.reached("finalize.after_call")


def _settle(kept: Store, run: Run, last: _Last) -> None:
    # The reason why a run was stopped stays, as long as the run does.
    error = None if last.to in STOPPED else ""
    if not kept.settle_run(run, to=last.to, error=error):
        raise LeaseLost(f"{run.id}: its last function took longer than its lease.")


def _after_error(kept: Store, run: Run, last: _Last, error: BaseException) -> None:
    """Give the lease back and say what happened; end the run when no call is left, and
    raise GivenUp."""
    if isinstance(error, Retry):
        kept.settle_run(run, to=None, delay=_delay(error))
        return
    text = f"{last.what}: {type(error).__name__}: {error}"
    limit = last.options.max_attempts
    is_hopeless = isinstance(error, PermanentTaskFailure)
    if not is_hopeless and (limit is None or run.attempts < limit):
        kept.settle_run(run, to=None, waiting=storable(text))
    elif _give_up(kept, run, last, text) and not is_hopeless:
        raise GivenUp(text) from error


def _give_up(kept: Store, run: Run, last: _Last, why: str) -> bool:
    """End the run without its last function; False when the lease is another's."""
    text = storable(why)
    if last.given_up in STOPPED:
        return kept.settle_run(run, to=last.given_up, waiting=text)
    return kept.settle_run(run, to=last.given_up, error=text)


def _delay(error: Retry) -> timedelta | None:
    if error.delay is None:
        return None
    # A timedelta overflows soon; the service would wait no longer either.
    delay = error.delay
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    return timedelta(seconds=min(seconds, HORIZON))


def budget(options: Options) -> timedelta:
    """How long a delivery may take before Cloud Tasks gives it up."""
    return options.timeout or timedelta(seconds=target().default_deadline)
