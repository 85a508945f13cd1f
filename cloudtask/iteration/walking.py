"""Walks a shard leg by leg: each delivery walks for as long as it may.

A delivery passes through frozen values, each made by one stage and taken by the next:
an `Arrival`, a `Lease`, a `Page`, the progress at each checkpoint, and an `Outcome`,
which decides how the shard is handed over.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

from cloudtask import carriers, failpoints
from cloudtask.context import current, entered
from cloudtask.delivering.errors import is_abort
from cloudtask.exceptions import (
    EnqueueError,
    PermanentTaskFailure,
    SingularTaskFailure,
    UnsupportedValue,
)
from cloudtask.iteration import failing, rows, stopping
from cloudtask.iteration.handle import Iteration
from cloudtask.iteration.lease import (
    Arrival,
    arrived,
    give_back,
    lease_of,
    leased,
    named,
    repair,
    speed_up,
    untouched,
)
from cloudtask.iteration.leg import CAREFUL_FROM, End, Leg, Stopped
from cloudtask.iteration.planning import half_of
from cloudtask.iteration.steps import (
    WALK,
    fail,
    finalize_if_done,
    in_context,
    message_of,
    say,
    send,
    send_last,
    send_shards,
    step,
)
from cloudtask.runs import LeaseLost, Run, RunState, Shard


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a leg has ended; `seconds` until a row is to be tried again, if one is."""

    end: End
    seconds: float | None = None


@step(WALK)
def walk(run_id: str, index: int, seq: int) -> None:
    """Walk a shard for as long as one delivery may, then hand it over or complete
    it."""
    arrival = arrived(run_id, index, seq)
    if arrival is None:
        return
    shard = leased(arrival)
    if shard is None:
        repair(arrival.store, run_id, index, seq)
        return
    try:
        _walk_leased(arrival, shard)
    except LeaseLost as error:
        # Not acknowledged: the delivery that has the lease now may be killed. If the
        # shard has moved on, the next delivery repairs what there is to repair.
        raise SingularTaskFailure(
            f"Shard {index} of iteration {run_id} went to another delivery."
        ) from error


def _walk_leased(arrival: Arrival, shard: Shard) -> None:
    """Walk with the lease. If that fails, the progress is written and the lease given
    back, so that the redelivery can go on from there."""
    store = arrival.store
    leg: Leg | None = None
    run: Run | None = None
    try:
        failpoints.reached("shard.after_lease")
        run = store.load_run(shard.run)
        with in_context(run) if run is not None else nullcontext():
            lease = lease_of(arrival, run, shard) if run is not None else None
            if lease is None:
                store.release(shard, untouched(shard))
                return
            leg = Leg(lease)
            _handed_over(leg, _observed(leg))
    except LeaseLost:
        raise
    except (UnsupportedValue, PermanentTaskFailure) as error:
        give_back(store, shard, leg.certain if leg else None)
        if run is not None:
            fail(store, run, f"A row can't be walked: {error}")
    except Exception as error:
        give_back(store, shard, leg.certain if leg else None)
        _say_why(arrival, run, error)
        raise
    except BaseException as error:
        if is_abort(error):
            give_back(store, shard, leg.certain if leg else None, is_killed=True)
        raise


def _say_why(arrival: Arrival, run: Run | None, error: Exception) -> None:
    """Let the run say why the leg failed, unless it is the service that failed."""
    # It may be the store that failed.
    with suppress(Exception):
        if run is not None and not isinstance(error, EnqueueError):
            text = f"Shard {arrival.shard.index} waits: {named(error)}"
            say(arrival.store, run, text)


# The leg


def _observed(leg: Leg) -> Outcome:
    """`_walked`, with what telemetry notes of it."""
    run, shard, before = leg.lease.run, leg.lease.shard, leg.settled
    carriers.note(run=run.id, task=run.task, shard=shard.index, leg=shard.seq)
    outcome = _walked(leg)
    carriers.note(rows=leg.settled - before)
    return outcome


def _walked(leg: Leg) -> Outcome:
    """Walk to the end of the rows, then try those again that failed and are due."""
    lease = leg.lease
    if lease.run.waiting:
        say(lease.store, lease.run, "")
    context = current(required=True)
    handle = Iteration(lease.run.id, lease.run)
    inside = replace(context, iteration=handle, shard_index=lease.shard.index)
    with entered(inside), stopping.walking(lease.run.id, leg.look_again):
        try:
            end = failing.quarantine(leg) if _is_poisoned(lease.shard) else None
            end = end or rows.walk(leg)
            if end is not End.WALKED:
                return Outcome(end)
            early_end, seconds = failing.retry_rows(leg)
            return Outcome(early_end or End.WALKED, seconds)
        except Stopped:
            return Outcome(End.STOPPED)


def _is_poisoned(shard: Shard) -> bool:
    """Whether a row killed its worker while its key was written as a suspect."""
    has_killed = shard.suspect is not None and shard.suspect != shard.cursor
    return has_killed and shard.deaths > CAREFUL_FROM


# The hand-over


def _handed_over(leg: Leg, outcome: Outcome) -> None:
    if outcome.end is End.STOPPED:
        _rest(leg)
    elif outcome.end is End.OUT_OF_TIME:
        speed_up(leg.lease, leg.walked.lived)
        _continue(leg)
    elif outcome.seconds is None:
        _complete(leg)
    else:
        _continue(leg, delay=outcome.seconds)


def _complete(leg: Leg) -> None:
    """Commit that the shard is done; only then ask whether all are.

    In one transaction two shards could each see the other undone, so that no delivery
    would finalize.
    """
    store, shard = leg.lease.store, leg.lease.shard
    failpoints.reached("shard.before_complete")
    if not store.complete(shard, leg.walked):
        raise LeaseLost(f"{shard.run}[{shard.index}]")
    failpoints.reached("shard.after_complete")
    finalize_if_done(store, shard.run)


def _continue(leg: Leg, delay: float = 0.0) -> None:
    """Let a successor go on where this leg stopped. Half of the remaining rows may
    become a shard of their own. `delay` is in seconds."""
    store, shard, run = leg.lease.store, leg.lease.shard, leg.lease.run
    # A process that is about to end has no time to look for the middle.
    split = None if leg.is_walked or stopping.asked() else half_of(leg)
    failpoints.reached("shard.before_release")
    made = store.release(shard, leg.walked, split=split)
    failpoints.reached("shard.after_release")
    send(message_of(WALK, run, shard.index, shard.seq + 1, delay=delay))
    if made is not None:
        send_shards(run, [made])


def _rest(leg: Leg) -> None:
    """Give the lease back without a successor: resume() makes one."""
    store, shard = leg.lease.store, leg.lease.shard
    store.release(shard, leg.walked)
    run = store.load_run(shard.run)
    if run is None:
        return
    if run.state is RunState.RUNNING:
        # The run was resumed between our stop and our release.
        send(message_of(WALK, run, shard.index, shard.seq + 1))
    send_last(run)
