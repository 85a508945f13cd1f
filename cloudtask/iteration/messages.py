"""The messages of a run's steps: plan, walk, finalize, stop.

Each step may be delivered twice, late, or at once with itself. What it must do next is
durable before it returns, and every message that it sends has a name that follows from
the stored state: sending it again is how a redelivery repairs what a crash left undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cloudtask import codec, failpoints, registry
from cloudtask.message import Message
from cloudtask.options import Backoff, Options, options_from_wire
from cloudtask.quotas import HORIZON
from cloudtask.registry import Definition
from cloudtask.runs import Run
from cloudtask.sending import enqueueing, outbox
from cloudtask.stores import store
from cloudtask.stores.transactions import is_undecided

# Steps are not given up while their run lives; the sweeper has the last word.
STEP_ATTEMPTS = 1_000_000
STEP_BACKOFF = Backoff(timedelta(seconds=1), timedelta(minutes=1), 6)
LONGEST_DELAY = HORIZON - 3600  # seconds; a step that comes early waits once more

# The names of the steps stand in URLs, in queued tasks and in logs. They never follow
# from the place of the code: a file may move while its tasks are on their way.
PLAN = "cloudtask.plan"
WALK = "cloudtask.walk"
FINALIZE = "cloudtask.finalize"
STOP = "cloudtask.stop"
REOPEN = "cloudtask.reopen"
STEPS = frozenset({PLAN, WALK, FINALIZE, STOP, REOPEN})

# The options of a task that its runs' steps travel with, and those that rows have.
_CARRIED = (
    "timeout",
    "url",
    "service",
    "version",
    "instance",
    "headers",
    "max_attempts",
)


def step(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the step of this name."""

    def registered(function: Callable[..., None]) -> Callable[..., None]:
        options = Options(max_attempts=STEP_ATTEMPTS, backoff=STEP_BACKOFF)
        registry.register(Definition(name, function, options))
        return function

    return registered


def carried(options: Options) -> bytes:
    """What of the options of `iterate()` goes into the run's row."""
    wire = {n: v for n, v in options.travelling.items() if n in _CARRIED}
    return codec.dumps(wire)


def options_of(run: Run) -> Options:
    """The options that `iterate()` was called with, as far as they are carried."""
    wire = codec.loads(run.options) if run.options else {}
    return options_from_wire(wire, run.queue)


def message_of(
    name: str,
    run: Run,
    *parts: int,
    delay: float = 0.0,
    renamed: int | None = None,
    **options: Any,
) -> Message:
    """The message of the step `name`, with a task name made of run, step and numbers.

    `delay` is in seconds. `renamed` makes another name for the same.
    """
    numbers = parts if renamed is None else (*parts, renamed)
    named = f"{run.id}:{name}:" + ":".join(map(str, numbers))
    if renamed is not None:
        named += ":renamed"
    delay = min(delay, LONGEST_DELAY)
    own = {
        "max_attempts": STEP_ATTEMPTS,
        "backoff": STEP_BACKOFF,
        "name": hashlib.sha256(named.encode()).hexdigest()[:40],
        "countdown": timedelta(seconds=delay) if delay else None,
    }
    chosen = replace(options_of(run), **{**own, **options})
    message = enqueueing.make_message(registry.find(name), chosen, (run.id, *parts), {})
    # The name is ours, not a caller's: that it is there already is as good.
    return replace(message, named=False)


def send(*messages: Message) -> None:
    """Enqueue steps; that one is there already is as good.

    In a transaction of the store's database they go with it: before its commit they
    would find the run as it was.
    """
    if not messages:
        return
    failpoints.reached("step.before_send")
    alias = store().database
    if alias is not None and is_undecided(alias):
        outbox.add([_of_database(message, alias) for message in messages], alias)
    else:
        enqueueing.send(messages)
    failpoints.reached("step.after_send")


def _of_database(message: Message, alias: str) -> Message:
    """`message`, whose outbox row is to be in the database `alias`."""
    return replace(message, options=replace(message.options, database=alias))
