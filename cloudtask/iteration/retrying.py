"""Trying the rows again that were given up.

Their shards begin anew, so nobody may walk or finalize meanwhile: the run is paused for
it. Where legs are at work, a step waits for them to stop. The step is enqueued before
anything is changed, and does what is left to do, wherever the caller has died. It knows
by the run's generation how far that came: one before `paused`, nothing was changed; at
`paused`, rows may be open; one after it, the run goes on. At any other one somebody
else has paused or resumed the run since.
"""

from __future__ import annotations

from cloudtask import conf, failpoints
from cloudtask.exceptions import CloudTaskError, Retry
from cloudtask.iteration.control import loaded
from cloudtask.iteration.finalizing import LOOK_AGAIN
from cloudtask.iteration.messages import REOPEN, message_of, send, step
from cloudtask.iteration.planning import start
from cloudtask.runs import Run, RunState
from cloudtask.stores import Store, store

_TO_BE_PAUSED = (RunState.RUNNING, RunState.FINISHED)


def retry_failures(run_id: str) -> int:
    """Open the given-up rows of a run again, now or when the legs that are at work have
    stopped; how many. Raises CloudTaskError when the run has ended otherwise."""
    kept = store()
    run = loaded(kept, run_id)
    if run.state not in (*_TO_BE_PAUSED, RunState.PAUSED):
        raise _refusal(run)
    # Rows of one that has finished only wait if it was resumed while they were opened.
    is_over = run.state is RunState.FINISHED
    count = kept.count_failures(run.id, given_up=not is_over)
    if count == 0:
        return 0
    is_paused = run.state is RunState.PAUSED
    paused = run.generation if is_paused else run.generation + 1
    send(message_of(REOPEN, run, paused, delay=LOOK_AGAIN))
    if not is_paused and not _pause(kept, run):
        run = loaded(kept, run_id)
        if not _is_begun(run, paused):
            raise _refusal(run)
    if not kept.is_at_work(run_id):
        _reopen(kept, run_id, paused)
    return count


def _is_begun(run: Run, paused: int) -> bool:
    """Whether somebody else opens the rows just now, or has opened them."""
    return (run.state, run.generation) in (
        (RunState.PAUSED, paused),
        (RunState.RUNNING, paused + 1),
    )


def _refusal(run: Run) -> CloudTaskError:
    return CloudTaskError(
        f"Iteration {run.id} is {run.state}: its failed rows can't be retried now."
    )


def _pause(kept: Store, run: Run) -> bool:
    """Pause the run; False when somebody else has changed it."""
    return kept.change_run(
        run.id,
        to=RunState.PAUSED,
        only_from=_TO_BE_PAUSED,
        generation=run.generation,
        error="Its failed rows are being opened again; resume it if this lasts.",
    )


@step(REOPEN)
def reopen(run_id: str, paused: int) -> None:
    """Open the rows when nobody is at work, and let the run go on."""
    kept = store()
    run = kept.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.RUNNING and run.generation == paused + 1:
        start(kept, run_id)  # whoever let it go on may have died before
        return
    if run.state in _TO_BE_PAUSED and run.generation == paused - 1:
        _pause(kept, run)
    elif run.state is not RunState.PAUSED or run.generation != paused:
        return
    if kept.is_at_work(run_id) or not _reopen(kept, run_id, paused):
        raise Retry("Shards are still at work.", delay=LOOK_AGAIN)


def _reopen(kept: Store, run_id: str, paused: int) -> bool:
    """Open the rows of a run that is PAUSED, and let it go on; False when it is not, or
    while somebody else does this."""
    run = kept.acquire_run(run_id, state=RunState.PAUSED, lease=conf.settings().lease)
    if run is None:
        return False
    if run.generation != paused:
        kept.settle_run(run, to=None, waiting=run.waiting)
        return True
    failpoints.reached("reopen.paused")
    kept.reopen_failures(run_id)
    # Tasks that came while the run was paused have used up their numbers.
    for shard in kept.load_shards(run_id):
        kept.bump_shard(shard)
    failpoints.reached("reopen.opened")
    kept.settle_run(run, to=None, waiting=run.waiting)
    kept.change_run(
        run_id,
        to=RunState.RUNNING,
        only_from=[RunState.PAUSED],
        generation=paused,
        error="",
    )
    failpoints.reached("reopen.resumed")
    # Also if somebody else has resumed it meanwhile: they know the old numbers.
    start(kept, run_id)
    return True
