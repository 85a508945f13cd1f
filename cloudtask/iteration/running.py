"""What code that runs inside a run is shown of it, and what the run itself can read
and say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cloudtask.context import current, entered
from cloudtask.delivering.failed import storable
from cloudtask.exceptions import CloudTaskError, PayloadError
from cloudtask.iteration.description import Description, unsealed
from cloudtask.iteration.sources import Source
from cloudtask.runs import Run, RunState
from cloudtask.stores import Store

logger = logging.getLogger("cloudtask")

A_MOMENT = timedelta(seconds=10)  # for writing a line to the run's row

# What helps a run whose description no key of this project opens.
LOST_KEY = (
    "Put the key that the run was started with into SECRET_KEY_FALLBACKS and resume "
    "it, or cancel it and start anew."
)

# Makes `current().iteration`; set by `handle`, which stands above.
handle_of: Callable[[Run], Any] = str


@contextmanager
def inside(run: Run, **told: Any) -> Iterator[None]:
    """Let `current()` tell of the run inside the block, and what is `told` of it."""
    context = current()
    if context is None:
        raise CloudTaskError(f"A step of iteration {run.id} runs outside of a task.")
    with entered(replace(context, iteration=handle_of(run), **told)):
        yield


def readable(kept: Store, run: Run) -> tuple[Description, Source] | None:
    """What the run walks; a run that can't be read is FAILED, and says why."""
    try:
        description = unsealed(run.description)
    except PayloadError as error:
        _fail(kept, run, f"{error} {LOST_KEY}")
        return None
    try:
        return description, description.source()
    except PayloadError as error:
        advice = f"cloudtask.iteration.get({run.id!r}).resume(queryset)."
        _fail(kept, run, f"{error} Resume it with a new queryset: {advice}")
        return None


def _fail(kept: Store, run: Run, why: str) -> None:
    logger.error("Iteration %s of %s can't be read: %s", run.id, run.task, why)
    kept.change_run(
        run.id,
        to=RunState.FAILED,
        only_from=[RunState.PLANNING, RunState.RUNNING],
        # Who resumed it since may have given it a queryset that can be read.
        generation=run.generation,
        error=storable(why),
    )


def say(kept: Store, run: Run, waiting: str) -> None:
    """Store what the run waits for; "" when it does not wait any more.

    Nothing is stored while another step has the run's lease.
    """
    text = storable(waiting)
    if text == run.waiting:
        return
    held = kept.acquire_run(run.id, state=run.state, lease=A_MOMENT)
    if held is not None:
        kept.settle_run(held, to=None, waiting=text)
