"""A queryset walked in parallel shards, then finalized once.

docs/explanation/iteration.md tells how; `stores.runs` has the states.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from cloudtask import codec, runtime
from cloudtask.exceptions import ConfigurationError
from cloudtask.iteration.description import MARGIN, Atomic, Description, OnError
from cloudtask.iteration.handle import (
    Iteration,
    IterationReport,
    Progress,
    ShardReport,
)
from cloudtask.iteration.messages import message_of
from cloudtask.iteration.planning import PLAN
from cloudtask.iteration.querysets import walkable
from cloudtask.iteration.sweeping import sweep
from cloudtask.message import Options, as_timedelta
from cloudtask.registry import Definition
from cloudtask.stores import store
from cloudtask.stores.runs import RowFailure, Run, RunState, ShardState

__all__ = [
    "Iteration",
    "IterationReport",
    "Progress",
    "RowFailure",
    "RunState",
    "ShardReport",
    "ShardState",
    "get",
    "iterate",
    "list",
    "map_items",
    "sweep",
]

_ON_ERROR = ("retry", "skip", "pause", "abort")
_ATOMIC = (None, "page", "row")


def iterate(
    definition: Definition,
    options: Options,
    queryset: Any,
    *,
    finalize: Any = None,
    on_failure: Any = None,
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    shards: int | None = None,
    batch_size: int | None = None,
    atomic: Atomic | None = None,
    on_error: OnError = "retry",
    max_failures: float | None = None,
    margin: timedelta | float = MARGIN,
    keep: bool = False,
    include_new: bool = False,
    transactional: bool | None = None,
) -> Iteration:
    """See `Task.iterate`."""
    walked = codec.dumps(walkable(queryset), root="queryset")
    description = Description(
        queryset=walked,
        args=tuple(args),
        kwargs=kwargs or {},
        finalize=_encoded(finalize, "finalize"),
        on_failure=_encoded(on_failure, "on_failure"),
        shards=shards,
        batch_size=batch_size,
        atomic=atomic,
        on_error=on_error,
        max_failures=max_failures,
        margin=as_timedelta(margin, "margin").total_seconds(),
        include_new=include_new,
        database=options.database,
    )
    return _start(definition, options, description, keep, transactional)


def map_items(
    definition: Definition,
    options: Options,
    items: Iterable[Any],
    *,
    finalize: Any = None,
    on_failure: Any = None,
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    shards: int | None = None,
    batch_size: int | None = None,
    atomic: Atomic | None = None,
    on_error: OnError = "retry",
    max_failures: float | None = None,
    keep: bool = False,
    transactional: bool | None = None,
) -> Iteration:
    """See `Task.map`."""
    description = Description(
        items=[*items],
        args=tuple(args),
        kwargs=kwargs or {},
        finalize=_encoded(finalize, "finalize"),
        on_failure=_encoded(on_failure, "on_failure"),
        shards=shards,
        batch_size=batch_size,
        atomic=atomic,
        on_error=on_error,
        max_failures=max_failures,
        database=options.database,
    )
    return _start(definition, options, description, keep, transactional)


def get(run_id: str) -> Iteration:
    """The run of this id; raises LookupError when there is none, or not any more."""
    run = store().load_run(run_id)
    if run is None:
        raise LookupError(f"There is no iteration {run_id!r}.")
    return Iteration(run_id, run)


def list(*states: RunState, limit: int = 100) -> Sequence[Iteration]:
    """The latest runs, newest first; only those in `states` when given."""
    runs = store().list_runs(states=states, limit=limit)
    return [Iteration(run.id, run) for run in runs]


def _encoded(function: Any, what: str) -> bytes | None:
    if function is None:
        return None
    if not callable(function):
        raise TypeError(f"{what} must be a task or a function, not {function!r}.")
    return codec.dumps(function, root=what)


def _start(
    definition: Definition,
    options: Options,
    description: Description,
    keep: bool,
    transactional: bool | None,
) -> Iteration:
    _check(definition, description)
    if transactional is not None:
        options = options.updated({"transactional": transactional})
    run = Run(
        id=uuid.uuid4().hex,
        task=definition.path,
        queue=options.queue,
        state=RunState.WAITING,
        keep=keep,
        description=description.sealed(wipe_related_caches=options.wipe_related_caches),
    )
    message = message_of(
        PLAN,
        run,
        run.generation,
        transactional=options.transactional,
        database=options.database,
        eta=options.eta,
        countdown=options.countdown,
    )
    kept = store()
    kept.create_run(run)
    try:
        runtime.leave([message], message.options)
    except BaseException:
        kept.delete_run(run.id)
        raise
    return Iteration(run.id, run)


def _check(definition: Definition, description: Description) -> None:
    """Refuse here what the first row would only find out."""
    if definition.has_subject:
        raise ConfigurationError(
            f"{definition.path} is a method; iterate() calls a function with each row. "
            "Write a function that calls the method."
        )
    definition.check_call(("a row", *description.args), description.kwargs)
    for name, allowed in (("on_error", _ON_ERROR), ("atomic", _ATOMIC)):
        value = getattr(description, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, not {value!r}.")
    for name in ("shards", "batch_size"):
        value = getattr(description, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1, not {value!r}.")
    if description.atomic and getattr(store(), "alias", None) != description.database:
        raise ConfigurationError(
            f"atomic={description.atomic!r} needs the cursor in the database that the "
            f"callback writes to: set CLOUDTASK['STORE'] to a DatabaseStore with "
            f"ALIAS {description.database!r}."
        )
