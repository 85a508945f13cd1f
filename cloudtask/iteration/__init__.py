"""A queryset walked in parallel shards, then finalized once.

docs/explanation/iteration.md tells how; `cloudtask.runs` has the states.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from django.db import connections, transaction

from cloudtask import clock, codec
from cloudtask.iteration.description import MARGIN, Atomic, Description
from cloudtask.iteration.handle import (
    Iteration,
    IterationReport,
    Progress,
    ShardReport,
)
from cloudtask.iteration.messages import PLAN, carried, message_of
from cloudtask.iteration.querysets import walkable
from cloudtask.iteration.refusals import check
from cloudtask.iteration.stopping import hand_over_on_sigterm
from cloudtask.iteration.sweeping import prune, sweep
from cloudtask.message import Message
from cloudtask.options import Options, as_timedelta
from cloudtask.registry import Definition
from cloudtask.runs import RowFailure, Run, RunState, ShardState
from cloudtask.sending.enqueueing import leave
from cloudtask.stores import store
from cloudtask.stores.transactions import apart

__all__ = [
    "Iteration",
    "IterationReport",
    "Progress",
    "RowFailure",
    "RunState",
    "ShardReport",
    "ShardState",
    "get",
    "hand_over_on_sigterm",
    "iterate",
    "list",
    "map_items",
    "prune",
    "sweep",
]


def iterate(
    definition: Definition,
    options: Options,
    queryset: Any,
    **policy: Any,
) -> Iteration:
    """See `Task.iterate`."""
    encoded = codec.dumps(
        walkable(queryset),
        wipe_related_caches=options.wipe_related_caches,
        root="queryset",
    )
    return _begin(definition, options, policy, queryset=encoded)


def map_items(
    definition: Definition,
    options: Options,
    items: Iterable[Any],
    **policy: Any,
) -> Iteration:
    """See `Task.map`."""
    if not isinstance(items, Iterable):
        raise TypeError(f"map() takes an iterable of items, not {items!r}.")
    encoded = codec.dumps(
        [*items], wipe_related_caches=options.wipe_related_caches, root="items"
    )
    return _begin(definition, options, policy, items=encoded)


def get(run_id: str) -> Iteration:
    """The run of this id; raises LookupError when there is none, or not any more."""
    run = store().load_run(run_id)
    if run is None:
        raise LookupError(f"There is no iteration {run_id!r}.")
    return Iteration(run_id, run)


def list(*states: RunState, limit: int = 100) -> Sequence[Iteration]:
    """The latest runs, newest first; only those in `states` when given. Raises
    ValueError for what is no state."""
    runs = store().list_runs(states=[*map(RunState, states)], limit=limit)
    return [Iteration(run.id, run) for run in runs]


def _encoded(function: Any, what: str) -> bytes | None:
    if function is None:
        return None
    if not callable(function):
        raise TypeError(
            f"{what} must be a task or a function, not {function!r}; its options are "
            "those of its @task, its queue is that of the iteration."
        )
    return codec.dumps(function, root=what)


def _arguments(
    options: Options, args: Sequence[Any], kwargs: dict[str, Any] | None
) -> bytes:
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise TypeError(f"args must be a list or a tuple, not {args!r}.")
    if not isinstance(kwargs, dict | None):
        raise TypeError(f"kwargs must be a dict, not {kwargs!r}.")
    return codec.dumps_call(
        tuple(args), kwargs or {}, wipe_related_caches=options.wipe_related_caches
    )


def _inherited(options: Options) -> Atomic | None:
    """A task that promises to run once in effect keeps that promise for each row."""
    return "page" if options.atomic else None


def _begin(
    definition: Definition, options: Options, policy: Mapping[str, Any], **what: bytes
) -> Iteration:
    """Start a run over `what`: an encoded queryset, or items."""
    finalize, on_failure = policy.get("finalize"), policy.get("on_failure")
    margin = as_timedelta(policy.get("margin", MARGIN), "margin")
    description = Description(
        queryset=what.get("queryset"),
        items=what.get("items"),
        arguments=_arguments(options, policy.get("args", ()), policy.get("kwargs")),
        finalize=_encoded(finalize, "finalize"),
        on_failure=_encoded(on_failure, "on_failure"),
        shards=policy.get("shards"),
        batch_size=policy.get("batch_size"),
        atomic=policy.get("atomic") or _inherited(options),
        on_error=policy.get("on_error", "retry"),
        max_failures=policy.get("max_failures"),
        margin=margin.total_seconds(),
        include_new=policy.get("include_new", False),
        database=options.database,
    )
    check(definition, options, description, finalize, on_failure)
    if policy.get("transactional") is not None:
        options = options.updated({"transactional": policy["transactional"]})
    return _start(definition, options, description, policy.get("keep", False))


def _start(
    definition: Definition, options: Options, description: Description, keep: bool
) -> Iteration:
    run = Run(
        id=uuid.uuid4().hex,
        task=definition.path,
        queue=options.queue,
        state=RunState.WAITING,
        keep=keep,
        description=description.sealed(),
        options=carried(options),
    )
    message = message_of(
        PLAN,
        run,
        run.generation,
        run.part,
        transactional=options.transactional,
        database=options.database,
        eta=options.eta,
        countdown=options.countdown,
    )
    _leave(run, message)
    return Iteration(run.id, run)


def _leave(run: Run, message: Message) -> None:
    """Create the run and enqueue its plan: both with the open transaction if it is that
    of the store's database, else the run first, for good."""
    kept = store()
    alias, options = kept.database, message.options
    if alias == options.database and _is_transactional(options):
        with transaction.atomic(using=alias):
            kept.create_run(run, delay=_delay(options))
            leave([message], options)
        return
    is_sure = not _is_transactional(options)
    with _for_good(alias, run):
        kept.create_run(run, delay=_delay(options) if is_sure else None)
    try:
        leave([message], options)
    except BaseException:
        with _for_good(alias, run):
            kept.delete_run(run.id)
        raise


def _delay(options: Options) -> timedelta:
    """The time until the plan is due."""
    if options.eta is not None:
        return timedelta(seconds=options.eta.timestamp() - clock.now())
    return options.countdown or timedelta(0)


def _for_good(alias: str | None, run: Run) -> AbstractContextManager[None]:
    """What the block writes is durable after it, whatever transaction is open."""
    if alias is None:
        return nullcontext()
    return apart(alias, f"Creating iteration {run.id}")


def _is_transactional(options: Options) -> bool:
    if options.transactional is not None:
        return options.transactional
    return connections[options.database].in_atomic_block
