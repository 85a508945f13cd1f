"""The end of a run: finalize once, after all shards, or `on_failure` in its place."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction

from cloudtask import clock, codec, failpoints
from cloudtask.context import current
from cloudtask.exceptions import (
    PayloadError,
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
    TaskNotFound,
)
from cloudtask.iteration.description import Description, called, unsealed
from cloudtask.iteration.legs import finish
from cloudtask.iteration.messages import message_of, send, step
from cloudtask.iteration.running import inside, say
from cloudtask.message import Options
from cloudtask.stores import Store, store
from cloudtask.stores.runs import STOPPED, LeaseLost, Run, RunState, Shard, ShardState
from cloudtask.targets import target

LAST_MARGIN = timedelta(seconds=30)
LOOK_AGAIN = 2.0  # seconds until a stopped run's last legs have noticed, probably


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
    """The policy of the last function itself, where that can be read."""
    try:
        function = _function(unsealed(run.description), what)
    except (PayloadError, TaskNotFound):
        return {}
    options = getattr(function, "options", None)
    if not isinstance(options, Options):
        return {}
    # None: as the steps have it, which are not given up.
    return {
        "timeout": options.timeout,
        **({"max_attempts": options.max_attempts} if options.max_attempts else {}),
    }


def _function(description: Description, what: str) -> Any:
    """`finalize` or `on_failure`; raises PayloadError or TaskNotFound."""
    encoded = getattr(description, what)
    return None if encoded is None else codec.loads(encoded)


def finalize(run_id: str, generation: int) -> None:
    """Call finalize and end the run: committed once.

    It is entered again only when the process dies inside it, or when it raises.
    """
    kept = store()
    run = kept.load_run(run_id)
    if run is not None and run.state is RunState.FINALIZING:
        _end(kept, run, "finalize", RunState.FINISHED)
        failpoints.reached("finalize.after_settle")
        run = kept.load_run(run_id)
    if run is not None and run.state is RunState.FINISHED and not run.keep:
        _forget(kept, run)


def _forget(kept: Store, run: Run) -> None:
    """Delete what nobody will ask for; rows that failed can still be retried."""
    if kept.count_failures(run.id) == 0:
        kept.delete_run(run.id)


def stopped(run_id: str, generation: int) -> None:
    """Call `on_failure` for a run that was cancelled or aborted, and end it."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None or run.state not in STOPPED or run.finished_at is not None:
        return
    if any(is_held(shard) for shard in kept.load_shards(run_id)):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)
    _end(kept, run, "on_failure", run.state)


def is_held(shard: Shard) -> bool:
    """Whether somebody seems to walk the shard right now."""
    until = shard.lease_until
    is_live = until is not None and until.timestamp() >= clock.now()
    return shard.state is ShardState.RUNNING and is_live


def _end(kept: Store, found: Run, what: str, to: RunState) -> None:
    """Call the last function of a run, and let it be `to`."""
    try:
        description = unsealed(found.description)
        function = _function(description, what)
        args, kwargs = description.call_arguments()
    except (PayloadError, TaskNotFound) as error:
        say(kept, found, f"{what} waits: {error}")
        raise
    options = getattr(function, "options", None)
    if not isinstance(options, Options):
        options = Options()
    failpoints.reached("finalize.before_lease")
    run = kept.acquire_run(
        found.id, state=found.state, lease=budget(options) + LAST_MARGIN
    )
    if run is None:
        raise SingularTaskFailure(
            f"{what} of iteration {found.id} is running in another delivery."
        )
    # A run that finished before was opened again for its failed rows only.
    is_wanted = function is not None and run.finished_at is None
    try:
        with inside(run):
            if is_wanted and is_atomic_here(kept, options):
                with transaction.atomic(using=options.database):
                    _call(function, args, kwargs)
                    _settle(kept, run, to)
            else:
                if is_wanted:
                    _call(function, args, kwargs)
                _settle(kept, run, to)
    except Exception as error:
        _after_error(kept, run, what, to, error)
        raise


def is_atomic_here(kept: Store, options: Options) -> bool:
    """Whether a function of these options can commit together with its run."""
    return options.atomic and getattr(kept, "alias", None) == options.database


def _call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    failpoints.reached("finalize.before_call")
    finish(called(function)(*args, **kwargs))
    failpoints.reached("finalize.after_call")


def _settle(kept: Store, run: Run, to: RunState) -> None:
    if not kept.settle_run(run, to=to):
        raise LeaseLost(f"{run.id}: its last function took longer than its lease.")


def _after_error(
    kept: Store, run: Run, what: str, to: RunState, error: Exception
) -> None:
    """Give the lease back and say what happened; end the run when no try is left."""
    text = (
        "" if isinstance(error, Retry) else f"{what}: {type(error).__name__}: {error}"
    )
    if not _gives_up(error):
        kept.settle_run(run, to=None, error=text)
    elif what == "on_failure":
        kept.settle_run(run, to=to, error=text)
    elif kept.settle_run(run, to=None, error=text):
        kept.change_run(
            run.id, to=RunState.FAILED, only_from=[RunState.FINALIZING], error=text
        )


def _gives_up(error: Exception) -> bool:
    context = current()
    is_last = context is not None and context.is_last_attempt
    return isinstance(error, PermanentTaskFailure) or (
        is_last and not isinstance(error, Retry)
    )


def budget(options: Options) -> timedelta:
    """How long a delivery may take before Cloud Tasks gives it up."""
    return options.timeout or timedelta(seconds=target().default_deadline)


FINALIZE = step(finalize)
STOP = step(stopped)
