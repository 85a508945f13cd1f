"""One delivery of a call: the attempt, what follows from it, and what observes both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter

from cloudtask import carriers, conf, signals
from cloudtask.context import entered
from cloudtask.delivering.calls import Attempt, Call, attempted
from cloudtask.delivering.settling import Outcome, finish
from cloudtask.failpoints import Crashed

runs = logging.getLogger("cloudtask.run")

Settle = Callable[[Attempt], Outcome]
Observe = Callable[[Outcome, BaseException | None], None]


def delivered(call: Call, settle: Settle = finish) -> Outcome:
    """Attempt `call`, and let `settle` make durable what follows.

    Raises EnqueueUnavailable when a store or Cloud Tasks can't be reached. The delivery
    must not be acknowledged then.
    """
    seen = None
    if not carriers.state.is_unobserved:
        seen = carriers.observed(call.message, call.context)
    with entered(call.context), seen or nullcontext():
        return _signalled(call, settle, seen.settled if seen else None)


def _signalled(call: Call, settle: Settle, observe: Observe | None) -> Outcome:
    """Send both signals, however the delivery ends."""
    since = perf_counter()
    try:
        if signals.task_started.receivers:
            signals.task_started.send_robust(
                sender=call.message.task, context=call.context
            )
        attempt = attempted(call)
        outcome = settle(attempt)
    except Crashed:
        raise  # it stands for a process that is killed
    except BaseException as error:
        _ended(call, Outcome.UNSETTLED, error, since, observe)
        raise
    _ended(call, outcome, attempt.error, since, observe)
    return outcome


def _ended(
    call: Call,
    outcome: Outcome,
    error: BaseException | None,
    since: float,
    observe: Observe | None,
) -> None:
    if observe is not None:
        observe(outcome, error)
    if signals.task_finished.receivers:
        signals.task_finished.send_robust(
            sender=call.message.task, context=call.context, outcome=outcome, error=error
        )
    if runs.isEnabledFor(logging.INFO) and conf.settings().log_runs:
        _log(call, outcome, perf_counter() - since)


def _log(call: Call, outcome: Outcome, seconds: float) -> None:
    extra = {**call.facts, "outcome": outcome.value, "seconds": seconds}
    runs.info("Task %s: %s, %.3f s.", str(call), outcome.value, seconds, extra=extra)
