"""Stores plans of more shards than one commit may create.

Google's Datastore emulator refuses a commit in more than 25 entity groups, and the
service one of more than 500 mutations. The shards of a large plan are therefore first
stored as one value of their run, by the commit that counts the part of the plan. Any
process can then create their entities. The first shard comes last, in the commit that
removes the value.

| the run has the value | entities | a crash here leaves |
|---|---|---|
| no | none | nothing: the plan does not exist |
| yes | none, or some, but not the first | the plan: the next reader creates the rest |
| no | all | the plan |

So a gap in the indexes of the shards shows that entities are missing. Entities are only
inserted, never replaced, so a slow process changes no shard that is walked already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudtask.envelope import seal_value, unseal_value
from cloudtask.exceptions import BadSignature
from cloudtask.runs import Shard
from cloudtask.stores.datastore import blobs
from cloudtask.stores.datastore.access import Access, Row, Try
from cloudtask.stores.datastore.entities import shard_row
from cloudtask.stores.sealing import run_place

AT_ONCE = 22  # shards that the commit of their plan creates: with the run, 24 groups
PLAN = "plan"  # the prefix of the properties that have the value
NAMES = tuple(blobs.NO_BLOB.named(PLAN))
_COLUMNS = ("index", "low", "high", "cursor", "expected", "stride")


def plan_of(row: Row) -> dict[str, Any]:
    """The properties of the run's entity that have shards without entities."""
    return {name: row.values[name] for name in NAMES if name in row.values}


def sealed_plan(run_id: str, shards: Sequence[Shard]) -> bytes:
    """The value that keeps `shards`, whose keys are sealed."""
    listed = [[getattr(shard, name) for name in _COLUMNS] for shard in shards]
    return seal_value(json.dumps(listed).encode(), place=run_place(run_id, PLAN))


def _shards(run_id: str, sealed: bytes | None) -> list[Shard]:
    if sealed is None:
        raise BadSignature(
            f"The stored plan of iteration {run_id} is damaged: its chunks are missing."
        )
    listed = json.loads(unseal_value(sealed, place=run_place(run_id, PLAN)))
    return [
        Shard(run=run_id, **dict(zip(_COLUMNS, one, strict=True))) for one in listed
    ]


def is_torn(shards: Sequence[Shard]) -> bool:
    """Whether shards of a run are missing among `shards`, which are in order."""
    return bool(shards) and shards[-1].index != len(shards) - 1


def write_out(access: Access, what: str, row: Row) -> None:
    """Create the missing shards of the plan in the run's entity `row`.

    It may be called at any time by any number of processes. Raises BadSignature if the
    plan was altered.
    """
    run_id, now = row.path[-1], access.now()
    shards = _shards(run_id, blobs.load(access, what, row, PLAN))
    rows = [shard_row(shard, now) for shard in shards]
    access.insert(what, rows[1:])
    if not access.transact(what, _removing(row, rows[0])):
        # The run was deleted meanwhile, perhaps before some of these were inserted.
        access.delete(what, [one.path for one in rows[1:]])


def _removing(seen: Row, first: Row) -> Callable[[Try], bool]:
    """Insert the first shard, and remove the plan from the run.

    False if there is no run.
    """

    def work(attempt: Try) -> bool:
        row = attempt.get(seen.path)
        if row is not None and plan_of(row) == plan_of(seen):
            kept = {name: row.values[name] for name in row.values if name not in NAMES}
            attempt.put(Row(row.path, kept, row.indexed), first)
            attempt.delete(*blobs.paths(row, PLAN))
        return row is not None

    return work


def with_plan(row: Row, plan: Mapping[str, Any]) -> Row:
    return Row(row.path, {**row.values, **plan}, row.indexed)
