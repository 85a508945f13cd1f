"""`run_queued`, in its synchronous and its asynchronous form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

from asgiref.sync import sync_to_async

from cloudtask.message import Message
from cloudtask.testruns import calls
from cloudtask.testruns.faults import CrashPoint, Faults
from cloudtask.testruns.http import Http
from cloudtask.testruns.loops import out_of_loop
from cloudtask.testruns.misfortune import Misfortune
from cloudtask.testruns.named import named
from cloudtask.testruns.report import Report
from cloudtask.testruns.run import Errors, Run, Wanted

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

Via = Literal["direct", "http"]


def run_queued(
    *tasks: Nameable,
    queue: str | None = None,
    until: timedelta | float | datetime | None = None,
    limit: int = 1000,
    errors: Errors = "raise",
    faults: Faults | CrashPoint | None = None,
    via: Via = "direct",
    recursive: bool = True,
    freeze: bool = False,
) -> Report:
    """Run what is queued, on this thread and its database connections.

    Only `tasks`, or those on `queue`, when given. Time is virtual: calls run at their
    eta, one after the other, without waiting. `until`, a duration from now or a moment,
    stops the clock there, and what is due later stays queued. With `freeze` Django's
    `timezone.now()` tells that time. Calls that wait for a commit run as if it had
    come.

    `errors`: "raise" lets the first failure through, with its own traceback, and the
    call stays queued unless it was its last attempt; "retry" follows the policy of task
    and queue to its end; "collect" notes each failure in the report, once, and goes on.

    `faults` has deliveries go wrong as Cloud Tasks is allowed to. `via="http"` delivers
    through the real URL, middleware and verification; the view then keeps, retries and
    logs as in production. With `recursive=False` calls enqueued meanwhile stay queued.

    Raises EndlessTasks once tasks have enqueued more than `limit` calls, and
    NotIdempotent when a second delivery that `faults` made changed the database.
    """
    _check(errors, Errors, "errors")
    _check(via, Via, "via")
    if isinstance(faults, CrashPoint):
        faults = Faults(crash=faults)
    run = Run(
        wanted=_wanted(tasks, queue),
        limit=limit,
        errors=errors,
        recursive=recursive,
        http=Http() if via == "http" else None,
        misfortune=Misfortune(faults, raises=errors == "raise") if faults else None,
    )
    run.stop_at = run.clock.moment(until)
    with out_of_loop():
        return run.to_the_end(freeze=freeze)


class RunOptions(TypedDict, total=False):
    """What `run_queued` takes by keyword."""

    queue: str | None
    until: timedelta | float | datetime | None
    limit: int
    errors: Errors
    faults: Faults | CrashPoint | None
    via: Via
    recursive: bool
    freeze: bool


async def arun_queued(*tasks: Nameable, **options: Unpack[RunOptions]) -> Report:
    """As `run_queued`, for an asynchronous test: on the thread, and so the database
    connections, that `sync_to_async` and the asynchronous ORM use there."""
    report: Report = await sync_to_async(run_queued)(*tasks, **options)
    return report


def _check(value: str, known: Any, name: str) -> None:
    if value not in get_args(known):
        choices = " or ".join(map(repr, get_args(known)))
        raise ValueError(f"{name} must be {choices}, not {value!r}.")


def _wanted(tasks: Sequence[Nameable], queue: str | None) -> Wanted | None:
    if not tasks and queue is None:
        return None
    paths = {named(task).path for task in tasks}

    def wanted(message: Message) -> bool:
        return queue in (None, message.queue) and (
            not paths or calls.task_of(message) in paths
        )

    return wanted
