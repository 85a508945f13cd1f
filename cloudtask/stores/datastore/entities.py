"""Converts records of iterations to entities of Datastore, and back.

| kind | name | found by |
|---|---|---|
| CloudtaskRun | id | time, state and time; `unsettled` if it has a next step |
| CloudtaskShard | id:index | its name; `undone_of` while it is undone |
| CloudtaskShardCount | id of the run | only its name |
| CloudtaskRowFailure | id:digest of the key | its name; `due` or `given_up` by state |

Each is an entity group of its own, so shards don't contend with each other. They only
read their run.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from cloudtask.runs import (
    GIVEN_UP,
    STOPPED,
    FailureState,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardState,
)
from cloudtask.stores.datastore.access import Path, Row
from cloudtask.stores.sealing import unreadable_run

RUN = "CloudtaskRun"
SHARD = "CloudtaskShard"
COUNT = "CloudtaskShardCount"
FAILURE = "CloudtaskRowFailure"

LONGEST = 100_000  # bytes of a text for people

_RUN_FIELDS = tuple(
    f.name for f in fields(Run) if f.name not in ("id", "state", "description")
)
_SHARD_FIELDS = tuple(
    f.name for f in fields(Shard) if f.name not in ("run", "index", "state")
)
_FAILURE_FIELDS = tuple(f.name for f in fields(RowFailure) if f.name != "run")
_OWING = (
    RunState.WAITING,
    RunState.PLANNING,
    RunState.RUNNING,
    RunState.FINALIZING,
)


def moment(value: datetime) -> datetime:
    """A time of the client, which has nanoseconds, as a plain datetime."""
    return datetime.combine(value.date(), value.time(), tzinfo=UTC)


def sortable(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value.encode()) > LONGEST:
        return value.encode()[:LONGEST].decode(errors="ignore")
    return value


# Runs


def run_path(run_id: str) -> Path:
    return (RUN, run_id)


def count_path(run_id: str) -> Path:
    return (COUNT, run_id)


def run_row(run: Run, blob: dict[str, Any], touched_at: datetime) -> Row:
    """The entity of `run`; `blob` has the place of its description."""
    values = {name: shortened(getattr(run, name)) for name in _RUN_FIELDS}
    values |= blob
    values |= {"state": run.state.value, "touched_at": touched_at}
    created = run.created_at or touched_at
    values |= {
        "created_at": created,
        # By state and then by time, so that one property serves both.
        "place": f"{place(run.state)}{sortable(created)} {run.id}",
        "at": f"{sortable(created)} {run.id}",
    }
    if _is_unsettled(run):
        values["unsettled"] = True
    return Row(run_path(run.id), values, ("at", "place", "unsettled"))


def place(state: RunState) -> str:
    """The prefix of the places of runs in `state`."""
    return f"{state.value} "


def _is_unsettled(run: Run) -> bool:
    return run.state in _OWING or (run.state in STOPPED and run.finished_at is None)


def run_of(row: Row, description: bytes = b"") -> Run:
    """`row` as a run. Raises Unreadable, as the other functions do, if a value does
    not fit."""
    row.check()
    return _run_in(row, description)


def shown_run(row: Row) -> Run:
    """The run for a list. One with a value that does not fit tells so as its error."""
    run = _run_in(row)
    return unreadable_run(run, row.why) if row.misfit else run


def _run_in(row: Row, description: bytes = b"") -> Run:
    # An entity of an earlier version lacks fields that were added later.
    there = [name for name in _RUN_FIELDS if name in row.values]
    values = {name: _plain(row.values[name]) for name in there}
    return Run(
        id=row.path[-1],
        state=RunState(row.values["state"]),
        description=description,
        **values,
    )


def _plain(value: Any) -> Any:
    return moment(value) if isinstance(value, datetime) else value


# Shards


def shard_path(run_id: str, index: int) -> Path:
    return (SHARD, f"{run_id}:{index:06d}")


def shard_row(shard: Shard, touched_at: datetime) -> Row:
    values = {name: getattr(shard, name) for name in _SHARD_FIELDS}
    values |= {"state": shard.state.value, "touched_at": touched_at}
    if shard.state is not ShardState.DONE:
        values["undone_of"] = shard.run
    return Row(shard_path(shard.run, shard.index), values, ("undone_of",))


def shard_of(row: Row) -> Shard:
    row.check()
    return shown_shard(row)


def shown_shard(row: Row) -> Shard:
    """The shard for a list, with neutral values in the place of those that don't
    fit."""
    run_id, _, index = row.path[-1].rpartition(":")
    there = [name for name in _SHARD_FIELDS if name in row.values]
    values = {name: _plain(row.values[name]) for name in there}
    state = ShardState(row.values["state"])
    return Shard(run=run_id, index=int(index), state=state, **values)


# Rows that failed


def failure_path(run_id: str, key: str) -> Path:
    return (FAILURE, f"{run_id}:{hashlib.sha256(key.encode()).hexdigest()}")


def digest_of(path: Path) -> str:
    """The digest of the key in the path of a failure."""
    return path[-1].rpartition(":")[2]


def failures_of(run_id: str, shard: int) -> str:
    """The prefix of `due` and `given_up` of the failures of a shard."""
    return f"{run_id}:{shard:06d} "


def failure_row(path: Path, failure: RowFailure, due_at: datetime) -> Row:
    """The entity of `failure`, whose key is sealed."""
    values = {
        "key": failure.key,
        "shard": failure.shard,
        "state": failure.state.value,
        "attempts": failure.attempts,
        "error": shortened(failure.error),
        "traceback": shortened(failure.traceback),
        "due_at": due_at,
    }
    of_shard = failures_of(failure.run, failure.shard)
    if failure.state is FailureState.WAITING:
        values["due"] = of_shard + sortable(due_at)
    elif failure.state in GIVEN_UP:
        values["given_up"] = of_shard
    return Row(path, values, ("shard", "due", "given_up"))


def failure_of(row: Row, **opened: str) -> RowFailure:
    """`row` as a failure, with values that were `opened` in the place of its own."""
    row.check()
    return shown_failure(row, **opened)


def shown_failure(row: Row, **opened: str) -> RowFailure:
    """The same for a list, with neutral values in the place of those that don't
    fit."""
    values: dict[str, Any] = {name: row.values[name] for name in _FAILURE_FIELDS}
    values["state"] = FailureState(values["state"])
    values["due_at"] = moment(values["due_at"])
    return RowFailure(run=row.path[-1].rpartition(":")[0], **values | opened)
