"""Names the steps of a run, makes their messages, and decides which one follows.

Each step may be delivered twice, late, or at the same time as itself. Whatever must
follow is durable before it returns. The name of each task follows from the stored state
of the run, so that a redelivery can send again what a crash left unsent: "exists
already" is success.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from cloudtask import carriers, clock, codec, conf, failpoints, registry, stores
from cloudtask.context import current
from cloudtask.delivering.errors import storable
from cloudtask.exceptions import PayloadError, TaskNotFound
from cloudtask.iteration.announcing import announce
from cloudtask.iteration.description import Description, unsealed
from cloudtask.iteration.sources import Source
from cloudtask.message import Carried, Message
from cloudtask.options import Backoff, Options, options_from_wire
from cloudtask.quotas import HORIZON
from cloudtask.registry import Definition
from cloudtask.runs import STOPPED, Run, RunState, Shard, ShardState
from cloudtask.sending import enqueueing, outbox
from cloudtask.stores import Store
from cloudtask.stores.runs import LOST_KEY
from cloudtask.stores.transactions import is_undecided
from cloudtask.targets import target

logger = logging.getLogger("cloudtask")

# The names of the steps stand in URLs, in queued tasks and in logs. They never follow
# from the place of the code: a file may move while its tasks are on their way.
PLAN = "cloudtask.plan"
WALK = "cloudtask.walk"
FINALIZE = "cloudtask.finalize"
STOP = "cloudtask.stop"
REOPEN = "cloudtask.reopen"
STEPS = frozenset({PLAN, WALK, FINALIZE, STOP, REOPEN})

# Where tests listen for the steps that are sent.
SENT = "step.sent"

# Steps are not given up while their run goes on; the sweeper makes lost ones again.
STEP_ATTEMPTS = 1_000_000
STEP_BACKOFF = Backoff(timedelta(seconds=1), timedelta(minutes=1), 6)
LONGEST_DELAY = HORIZON - 3600  # seconds; a step that comes early waits once more
LOOK_AGAIN = 2.0  # seconds until the last legs of a stopped run have probably ended
A_MOMENT = timedelta(seconds=10)  # the lease for writing a line to the run's row

# The options of a task that the steps and the rows of its runs have, too.
_KEPT = (
    "timeout",
    "url",
    "service",
    "version",
    "instance",
    "headers",
    "max_attempts",
)
# The context that `iterate()` captured lies beside them, under these names.
_CARRIED = {"carried": "project", "telemetry": "telemetry"}


def step(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the step of this name."""

    def registered(function: Callable[..., None]) -> Callable[..., None]:
        options = Options(max_attempts=STEP_ATTEMPTS, backoff=STEP_BACKOFF)
        registry.register(Definition(name, function, options, is_step=True))
        return function

    return registered


# Options and messages


def kept(options: Options, carried: Carried) -> bytes:
    """The options of `iterate()` that the row of the run keeps, and the context of its
    caller."""
    wire = {n: v for n, v in options.travelling.items() if n in _KEPT}
    for name, part in _CARRIED.items():
        if text := getattr(carried, part):
            wire[name] = text
    return codec.dumps(wire)


def options_of(run: Run) -> Options:
    """The options that `iterate()` was called with, as far as the run keeps them."""
    wire = codec.loads(run.options) if run.options else {}
    return options_from_wire(wire, run.queue)


def carried_of(run: Run) -> Carried:
    """The context of the caller of `iterate()`."""
    wire = codec.loads(run.options) if run.options else {}
    return Carried(**{part: wire.get(name, "") for name, part in _CARRIED.items()})


def in_context(run: Run) -> AbstractContextManager[None]:
    """A block in which the context of the caller of `iterate()` is restored. Entering
    it raises what a carrier raises."""
    text = carried_of(run).project
    if carriers.state.is_off and not text:
        return nullcontext()
    return carriers.restored(text, current(required=True))


def budget(options: Options) -> timedelta:
    """How long a delivery may take before Cloud Tasks gives it up."""
    return options.timeout or timedelta(seconds=target().default_deadline)


def message_of(
    name: str,
    run: Run,
    /,
    *parts: int,
    delay: float = 0.0,
    renamed: int | None = None,
    **options: Any,
) -> Message:
    """The message of the step `name`, with a task name made of run, step and numbers.

    `delay` is in seconds. `renamed` makes another name for the same step.
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
    # The row of the run has the context of the project, for all of its steps.
    telemetry = carriers.following(carried_of(run)).telemetry
    message = enqueueing.make_message(
        registry.find(name),
        chosen,
        (run.id, *parts),
        {},
        carried=Carried(telemetry=telemetry),
    )
    # No caller chose the name: that the task exists already is success.
    return replace(message, named=False)


def send(*messages: Message) -> None:
    """Enqueue steps; those that exist already count as enqueued.

    Inside a transaction of the store's database they are sent with its commit. Before
    it, they would find the run as it was.
    """
    if not messages:
        return
    failpoints.reached("step.before_send")
    alias = stores.store().database
    if alias is not None and is_undecided(alias):
        outbox.add([_of_database(message, alias) for message in messages], alias)
    else:
        enqueueing.send(messages)
    failpoints.reached("step.after_send")
    failpoints.tell(SENT, messages)


def _of_database(message: Message, alias: str) -> Message:
    """`message`, with its outbox row in the database `alias`."""
    return replace(message, options=replace(message.options, database=alias))


# What must follow


def proceed(store: Store, run_id: str) -> None:
    """Send what must follow from the stored state of a run, whatever was sent before.

    The last step of each state is decided here, too: a run is FINALIZING once no shard
    is undone.
    """
    run = store.load_run(run_id)
    # PLANNING still: the run was paused and resumed while its plan was made.
    if run is not None and run.has_plan and run.state is RunState.PLANNING:
        store.change_run(run_id, to=RunState.RUNNING, only_from=[RunState.PLANNING])
        run = store.load_run(run_id)
    if run is None:
        return
    if run.state is RunState.RUNNING:
        _proceed_running(store, run)
    elif run.state in (RunState.WAITING, RunState.PLANNING):
        send_plan(run)
    else:
        send_last(run)


def _proceed_running(store: Store, run: Run) -> None:
    undone = [s for s in store.load_shards(run.id) if s.state is not ShardState.DONE]
    if undone:
        send_shards(run, undone)
    if not run.is_planned:
        send_plan(run)
    elif not undone:
        finalize_if_done(store, run.id)


def send_plan(run: Run) -> None:
    """Enqueue the plan of a run, or the next part of it."""
    send(message_of(PLAN, run, run.generation, run.part))


def send_look(run: Run) -> None:
    """Enqueue a step that soon sends whatever must then follow from the stored run.

    A caller that changes the state enqueues it first: it may be killed before it sends
    the step that follows from the change. Inside a transaction of the store's database,
    the change and that step commit together.
    """
    alias = stores.store().database
    if alias is None or not is_undecided(alias):
        # A plan sends what follows in any state, if the change was made.
        numbers, name = (run.generation + 1, run.part), secrets.token_hex(20)
        send(message_of(PLAN, run, *numbers, delay=LOOK_AGAIN, name=name))


def send_shards(run: Run, shards: Sequence[Shard]) -> None:
    """Enqueue the tasks of many shards, in as few requests as possible."""
    send(*(message_of(WALK, run, shard.index, shard.seq) for shard in shards))


def send_watch(run: Run, shard: Shard) -> None:
    """Enqueue the task of a shard once more, under another name, for the time at which
    its lease is over: the delivery that has the lease may be gone, and its task too."""
    wait = conf.settings().lease.total_seconds()
    if shard.deadline_at is not None:
        wait = max(wait, shard.deadline_at.timestamp() - clock.now())
    message = message_of(
        WALK, run, shard.index, shard.seq, delay=wait, renamed=run.generation
    )
    send(message)


def finalize_if_done(store: Store, run_id: str) -> None:
    """Enqueue finalize if no shard is undone.

    If another caller decided that before, it may have been killed before it could
    enqueue. So this one enqueues the same name.
    """
    failpoints.reached("finalize.before_decision")
    store.try_finalize(run_id)
    failpoints.reached("finalize.after_decision")
    run = store.load_run(run_id)
    if run is not None and run.state is RunState.FINALIZING:
        send_last(run)


def send_last(run: Run) -> None:
    """Enqueue the last step of a run that is FINALIZING, or was stopped and has not
    ended; nothing in any other state."""
    if run.state is RunState.FINALIZING:
        send(message_of(FINALIZE, run, run.generation, **_timeout(run, "finalize")))
    elif run.state in STOPPED and run.finished_at is None:
        send(message_of(STOP, run, run.generation, **_timeout(run, "on_failure")))


def _timeout(run: Run, what: str) -> dict[str, Any]:
    """The timeout of the last function itself, if it can be read. Its attempts are not
    those of the step: the run counts its calls."""
    try:
        function = unsealed(run.description).last_function(what)
    except (PayloadError, TaskNotFound):
        return {}
    options = getattr(function, "options", None)
    return {"timeout": options.timeout} if isinstance(options, Options) else {}


# What a step reads of its run, and tells it


@dataclass(frozen=True, slots=True)
class Opened:
    """A run whose description this version can read."""

    run: Run
    description: Description
    source: Source


def opened(store: Store, run: Run) -> Opened | None:
    """A run with what it walks. If that can't be read, the run is FAILED and its error
    says why."""
    try:
        description = unsealed(run.description)
    except PayloadError as error:
        fail(store, run, f"{error} {LOST_KEY}")
        return None
    try:
        return Opened(run, description, description.source())
    except PayloadError as error:
        fail(store, run, f"{error} {advice(run)}")
        return None


def advice(run: Run) -> str:
    """How a run goes on whose queryset this version can't read."""
    call = f"cloudtask.iteration.get({run.id!r}).resume(queryset)"
    return f"Resume it with a new queryset: {call}."


def fail(store: Store, run: Run, why: str) -> None:
    """Let a run be FAILED, unless it was changed since it was read."""
    logger.error("Iteration %s of %s has failed: %s", run.id, run.task, why)
    if store.change_run(
        run.id,
        to=RunState.FAILED,
        only_from=[RunState.PLANNING, RunState.RUNNING],
        # A run that was resumed since may have a queryset that can be read.
        generation=run.generation,
        error=storable(why),
    ):
        announce(run, RunState.FAILED, why)


def say(store: Store, run: Run, waiting: str) -> None:
    """Store what the run waits for; "" if it does not wait any more.

    Nothing is stored while another step has the run's lease.
    """
    text = storable(waiting)
    if text == run.waiting:
        return
    held = store.acquire_run(run.id, state=run.state, lease=A_MOMENT)
    if held is not None:
        store.settle_run(held, to=None, waiting=text)
