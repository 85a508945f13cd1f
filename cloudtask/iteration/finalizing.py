"""The end of a run: finalize once, after all shards, or `on_failure` in its place."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction

from cloudtask import codec, failpoints
from cloudtask.exceptions import PayloadError, SingularTaskFailure, TaskNotFound
from cloudtask.iteration.description import Description, called, unsealed
from cloudtask.iteration.messages import message_of, send, step
from cloudtask.iteration.running import inside
from cloudtask.message import Options
from cloudtask.stores import Store, store
from cloudtask.stores.runs import STOPPED, LeaseLost, Run, RunState
from cloudtask.targets import target

FINALIZE_MARGIN = timedelta(seconds=30)


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
    send(message_of(FINALIZE, run, run.generation, **_finalize_options(run)))


def _finalize_options(run: Run) -> dict[str, Any]:
    """The policy of the finalize task itself, where that can be read."""
    try:
        function = _loaded(unsealed(run.description).finalize)
    except (PayloadError, TaskNotFound):
        return {}
    options = getattr(function, "options", None)
    if options is None:
        return {"max_attempts": None}
    return {"max_attempts": options.max_attempts, "timeout": options.timeout}


def _loaded(encoded: bytes | None) -> Any:
    return None if encoded is None else codec.loads(encoded)


def finalize(run_id: str, generation: int) -> None:
    """Call finalize and end the run: committed once.

    It is entered again only when the process dies inside it, or when it raises.
    """
    kept = store()
    found = kept.load_run(run_id)
    if found is None or found.state is not RunState.FINALIZING:
        return
    description = unsealed(found.description)
    function = _loaded(description.finalize)
    options = getattr(function, "options", Options())
    failpoints.reached("finalize.before_lease")
    run = kept.acquire_run(
        run_id,
        state=RunState.FINALIZING,
        lease=budget(options) + FINALIZE_MARGIN,
    )
    if run is None:
        _refuse_while_held(kept, run_id)
        return
    try:
        _finalize(kept, run, description, function, options)
    except Exception as error:
        kept.settle_run(
            run, to=None, error=f"finalize: {type(error).__name__}: {error}"
        )
        raise
    if not run.keep:
        kept.delete_run(run.id)


def _refuse_while_held(kept: Store, run_id: str) -> None:
    run = kept.load_run(run_id)
    if run is not None and run.state is RunState.FINALIZING:
        raise SingularTaskFailure(
            f"finalize of iteration {run_id} is running in another delivery."
        )


def _finalize(
    kept: Store, run: Run, description: Description, function: Any, options: Options
) -> None:
    alias = getattr(kept, "alias", None)
    if options.atomic and alias == options.database:
        with transaction.atomic(using=alias):
            _call_with_run(run, description, function)
            _end(kept, run, RunState.FINISHED)
        return
    _call_with_run(run, description, function)
    failpoints.reached("finalize.after_call")
    _end(kept, run, RunState.FINISHED)
    failpoints.reached("finalize.after_settle")


def _end(kept: Store, run: Run, to: RunState) -> None:
    if not kept.settle_run(run, to=to):
        raise LeaseLost(f"{run.id}: its finalize took longer than its lease.")


def _call_with_run(run: Run, description: Description, function: Any) -> None:
    # A run that finished before was opened again for its failed rows only.
    if function is None or run.finished_at is not None:
        return
    with inside(run):
        failpoints.reached("finalize.before_call")
        called(function)(*description.args, **description.kwargs)


# Own up


def stopped(run_id: str, generation: int) -> None:
    """Call `on_failure` for a run that was cancelled or aborted, and end it."""
    kept = store()
    found = kept.load_run(run_id)
    if found is None or found.state not in STOPPED or found.finished_at is not None:
        return
    description = unsealed(found.description)
    function = _loaded(description.on_failure)
    run = kept.acquire_run(
        run_id, state=found.state, lease=budget(Options()) + FINALIZE_MARGIN
    )
    if run is None:
        raise SingularTaskFailure(
            f"on_failure of iteration {run_id} is running in another delivery."
        )
    try:
        _call_with_run(run, description, function)
    except Exception as error:
        kept.settle_run(
            run, to=None, error=f"on_failure: {type(error).__name__}: {error}"
        )
        raise
    _end(kept, run, found.state)


def send_stopped(kept: Store, run_id: str) -> None:
    """Enqueue the end of a run that was cancelled or aborted."""
    run = kept.load_run(run_id)
    if run is not None and run.state in STOPPED and run.finished_at is None:
        send(message_of(STOP, run, run.generation, max_attempts=None))


def budget(options: Options) -> timedelta:
    """How long a delivery may take before Cloud Tasks gives it up."""
    return options.timeout or timedelta(seconds=target().default_deadline)


FINALIZE = step(finalize)
STOP = step(stopped)
