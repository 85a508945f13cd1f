"""Sends the signals of iterations, after the change that each is about is durable."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from django.db import transaction
from django.dispatch import Signal

from cloudtask import signals, stores
from cloudtask.runs import Run, RunState
from cloudtask.stores.transactions import is_undecided

_SIGNALS: Mapping[RunState, Signal] = {
    RunState.RUNNING: signals.iteration_started,
    RunState.PAUSED: signals.iteration_paused,
    RunState.FAILED: signals.iteration_failed,
    RunState.FINISHED: signals.iteration_finished,
    RunState.CANCELLED: signals.iteration_finished,
    RunState.ABORTED: signals.iteration_finished,
}


def announce(run: Run, state: RunState, error: str = "") -> None:
    """Send the signal of a change to `state`, which the caller has made.

    In a transaction of the store's database it is sent after the commit.
    """
    signal = _SIGNALS[state]
    if not signal.receivers:
        return
    send = partial(
        signal.send_robust, sender=run.task, run=run.id, state=state, error=error
    )
    alias = stores.store().database
    if alias is not None and is_undecided(alias):
        transaction.on_commit(send, using=alias, robust=True)
    else:
        send()
