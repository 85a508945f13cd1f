"""Walks the rows of a queryset in parallel shards, then calls finalize once.

docs/explanation/iteration.md tells how; `cloudtask.runs` has the states.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from cloudtask import carriers, clock, codec, stores
from cloudtask.asynchrony import synchronous
from cloudtask.discretion import shown
from cloudtask.iteration import finalizing, planning, walking  # noqa: F401  the steps
from cloudtask.iteration.control import prune, sweep
from cloudtask.iteration.description import (
    Description,
    IterateOptions,
    MapOptions,
    described,
)
from cloudtask.iteration.handle import Iteration
from cloudtask.iteration.sources.walkable import walkable
from cloudtask.iteration.steps import PLAN, kept, message_of
from cloudtask.iteration.stopping import hand_over_on_sigterm
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.runs import (
    IterationReport,
    Progress,
    RowFailure,
    Run,
    RunState,
    ShardReport,
    ShardState,
)
from cloudtask.sending import limits
from cloudtask.sending.enqueueing import leave
from cloudtask.stores.transactions import apart

__all__ = [
    "IterateOptions",
    "Iteration",
    "IterationReport",
    "MapOptions",
    "Progress",
    "RowFailure",
    "RunState",
    "ShardReport",
    "ShardState",
    "aget",
    "alist",
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
        walkable(queryset, of=definition.path),
        wipe_related_caches=options.wipe_related_caches,
        root="queryset",
        of=definition.path,
    )
    description = described(definition, options, policy, queryset=encoded)
    return _start(definition, options, description, policy)


def map_items(
    definition: Definition,
    options: Options,
    items: Iterable[Any],
    **policy: Any,
) -> Iteration:
    """See `Task.map`."""
    # The characters of a string and the keys of a mapping are hardly meant.
    if isinstance(items, str | bytes | bytearray | Mapping):
        raise TypeError(
            f"map() takes a list of items, not {type(items).__name__}. For one item "
            "write [item]; for a mapping, its .items() or .values()."
        )
    if not isinstance(items, Iterable):
        raise TypeError(f"map() takes an iterable of items, not {shown(items)}.")
    encoded = codec.dumps(
        [*items],
        wipe_related_caches=options.wipe_related_caches,
        root="items",
        of=definition.path,
    )
    description = described(definition, options, policy, items=encoded)
    return _start(definition, options, description, policy)


def get(run_id: str) -> Iteration:
    """The run of this id; raises LookupError if there is none, or not any more."""
    with synchronous("iteration", "get"):
        run = stores.store().load_run(run_id)
    if run is None:
        raise LookupError(f"There is no iteration {run_id!r}.")
    return Iteration(run_id, run)


def list(*states: RunState, limit: int = 100) -> Sequence[Iteration]:
    """The latest runs, newest first; only those in `states` if any are given. Raises
    ValueError for a name that is no state."""
    with synchronous("iteration", "list"):
        runs = stores.store().list_runs(states=[*map(RunState, states)], limit=limit)
    return [Iteration(run.id, run) for run in runs]


async def aget(run_id: str) -> Iteration:
    """As `get`, for asynchronous code."""
    return await sync_to_async(get)(run_id)


async def alist(*states: RunState, limit: int = 100) -> Sequence[Iteration]:
    """As `list`, for asynchronous code."""
    return await sync_to_async(list)(*states, limit=limit)


def _start(
    definition: Definition,
    options: Options,
    description: Description,
    policy: Mapping[str, Any],
) -> Iteration:
    """Store the run and enqueue its first step."""
    if policy.get("transactional") is not None:
        options = options.updated({"transactional": policy["transactional"]})
    where = Options(database=options.database, transactional=options.transactional)
    limits.check_database(where, f"An iteration of {definition.path}")
    run_id = uuid.uuid4().hex
    what = carriers.Enqueueing(
        task=definition.path, queue=options.queue, waits=True, run=run_id
    )
    with carriers.enqueueing(what):
        run = Run(
            id=run_id,
            task=definition.path,
            queue=options.queue,
            state=RunState.WAITING,
            keep=policy.get("keep", False),
            description=description.sealed(),
            options=kept(options, carriers.capture(definition.path)),
        )
        _enqueue_plan(run, options)
    return Iteration(run_id, run)


def _enqueue_plan(run: Run, options: Options) -> None:
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


def _leave(run: Run, message: Message) -> None:
    """Create the run and enqueue its plan: both with the open transaction if that is on
    the store's database. Otherwise the run is committed first."""
    store = stores.store()
    options = message.options
    if store.database == options.database and _is_transactional(options):
        with transaction.atomic(using=options.database):
            store.create_run(run, delay=_delay(options))
            leave([message], options)
        return
    is_sure = not _is_transactional(options)
    with _committed(store.database, run):
        store.create_run(run, delay=_delay(options) if is_sure else None)
    try:
        leave([message], options)
    except BaseException:
        with _committed(store.database, run):
            store.delete_run(run.id)
        raise


def _delay(options: Options) -> timedelta:
    """The time until the plan is due."""
    if options.eta is not None:
        return timedelta(seconds=options.eta.timestamp() - clock.now())
    return options.countdown or timedelta(0)


def _committed(alias: str | None, run: Run) -> AbstractContextManager[None]:
    """Writes of the block are durable after it, whatever transaction is open."""
    if alias is None:
        return nullcontext()
    return apart(alias, f"Creating iteration {run.id}")


def _is_transactional(options: Options) -> bool:
    if options.transactional is not None:
        return options.transactional
    return connections[options.database].in_atomic_block
