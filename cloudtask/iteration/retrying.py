"""Trying the rows again that were given up.

Their shards begin anew, so nobody may walk or finalize meanwhile: the run is paused for
it. Where legs are at work, a step waits for them to stop; it knows by the run's
generation whether somebody else has paused or resumed the run since.
"""

from __future__ import annotations

from cloudtask.exceptions import CloudTaskError, Retry
from cloudtask.iteration.control import go_on, loaded, resume
from cloudtask.iteration.finalizing import LOOK_AGAIN, is_held
from cloudtask.iteration.messages import message_of, send, step
from cloudtask.stores import Store, store
from cloudtask.stores.runs import RunState

_WITH_FAILURES = (RunState.RUNNING, RunState.PAUSED, RunState.FINISHED)


def retry_failures(run_id: str) -> int:
    """Open the given-up rows of a run again, now or when the legs that are at work have
    stopped; how many. Raises CloudTaskError when the run has ended otherwise."""
    kept = store()
    run = loaded(kept, run_id)
    if run.state not in _WITH_FAILURES:
        raise CloudTaskError(
            f"Iteration {run.id} is {run.state}: its failed rows can't be retried now."
        )
    count = kept.count_failures(run.id, given_up=True)
    if count == 0:
        return 0
    kept.change_run(
        run.id,
        to=RunState.PAUSED,
        only_from=[RunState.RUNNING, RunState.FINISHED],
        error="Its failed rows are being opened again; resume it if this lasts.",
    )
    if not _is_at_work(kept, run_id):
        return _reopen(kept, run_id)
    run = loaded(kept, run_id)
    send(message_of(REOPEN, run, run.generation))
    return count


def reopen(run_id: str, generation: int) -> None:
    """Open the rows when nobody is at work, and let the run go on."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.RUNNING and run.generation == generation + 1:
        go_on(kept, run)  # resumed by a delivery of this that died before its steps
    if run.state is not RunState.PAUSED or run.generation != generation:
        return
    if _is_at_work(kept, run_id):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)
    _reopen(kept, run_id)


def _is_at_work(kept: Store, run_id: str) -> bool:
    return any(is_held(shard) for shard in kept.load_shards(run_id))


def _reopen(kept: Store, run_id: str) -> int:
    count = kept.reopen_failures(run_id)
    resume(run_id)
    return count


REOPEN = step(reopen)
