"""Makes one try of a change of runs and shards in Datastore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cloudtask.runs import RowFailure, Run, RunState, Shard
from cloudtask.stores.datastore import blobs, plans
from cloudtask.stores.datastore.access import Access, Path, Row, Try
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import (
    SHARD,
    count_path,
    digest_of,
    failure_path,
    failure_row,
    run_of,
    run_path,
    run_row,
    shard_of,
    shard_path,
    shard_row,
)
from cloudtask.stores.sealing import (
    sealed_description,
    sealed_key,
    sealed_keys,
    sealed_rest,
)
from cloudtask.transitions import Moment

# Datastore has no time that a condition could use: times are those of the processes.
# Clocks on Google Cloud differ by milliseconds. A clock that is further ahead ends
# leases early, one that is behind ends them late. Either way the fence decides who may
# write: rows may be repeated, but none is lost and no progress is overwritten.
SKEW = timedelta(seconds=2)


def has_undone(access: Access, what: str, run_id: str) -> bool:
    undone = [("undone_of", "=", run_id)]
    found = access.query(what, SHARD, undone, projection=["__key__"], limit=1)
    return bool(found)


class PlanWaits(Exception):
    """Another part of the run's plan must be written out first."""

    def __init__(self, run: Row) -> None:
        self.run = run


@dataclass(frozen=True)
class Change:
    """A change, with all of its tries."""

    access: Access
    what: str
    blobs: dict[bytes, tuple[Blob, Sequence[Row]]] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)  # runs with a plan to write out

    def saved(self, owner: Path, data: bytes) -> tuple[Blob, Sequence[Row]]:
        """Write the chunks of `data` once; returns those that the commit must write."""
        if data not in self.blobs:
            blob = Blob.of(data)
            last = blobs.save(self.access, self.what, owner, blob, data)
            self.blobs[data] = blob, last
        return self.blobs[data]


class DatastoreSwap:
    """One try of a change; `cloudtask.stores.swaps.Swap` describes its methods.

    A worker in a shard reads the run in the same transaction, to stop if the run was
    paused. The run is seldom written, so these readers don't disturb each other.
    """

    def __init__(self, change: Change, attempt: Try) -> None:
        self.moment = Moment(change.access.now(), SKEW)
        self._change = change
        self._attempt = attempt
        self._runs: dict[str, Row] = {}
        self._shards: dict[Path, Shard] = {}
        self._written: dict[str, Row] = {}

    def write(self) -> None:
        """Hand the runs over to the commit; all else was handed over before."""
        self._attempt.put(*self._written.values())

    def run(self, run_id: str) -> Run | None:
        row = self._attempt.get(run_path(run_id))
        if row is None:
            return None
        self._runs[run_id] = row
        return run_of(row)

    def shard(
        self, run_id: str, index: int, *, if_running: bool = False
    ) -> Shard | None:
        path = shard_path(run_id, index)
        paths = (path, run_path(run_id)) if if_running else (path,)
        row, *runs = self._attempt.get_all(*paths)
        for run in runs:
            if run is None or run.values["state"] != RunState.RUNNING.value:
                return None
        if row is None:
            return None
        self._shards[path] = shard_of(row)
        return self._shards[path]

    def has_undone(self, run_id: str) -> bool:
        """The query runs outside the transaction, which would else lock all shards.

        No shard can become undone before the commit of the run. A split comes from a
        shard that is itself undone, which the query finds. A plan is written together
        with the run, so that one of the two commits conflicts; while shards are only
        stored with their run, they are undone. And `reopen_failures` is only called
        for a run that is PAUSED.
        """
        if plans.plan_of(self._runs[run_id]):
            return True
        return has_undone(self._change.access, self._change.what, run_id)

    def put_run(self, run: Run, description: bytes | None = None) -> None:
        before = self._runs[run.id]
        if run.rest is not None and run.rest != before.values["rest"]:
            run = replace(run, rest=sealed_rest(run.id, run.rest))
        values = {name: before.values[name] for name in blobs.NOTHING}
        if description is not None:
            sealed = sealed_description(run.id, description)
            blob, last = self._change.saved(before.path, sealed)
            values = blob.values
            self._attempt.put(*last)
            self._attempt.delete(*blobs.paths(before))
        written = run_row(run, values, self.moment.now)
        self._written[run.id] = plans.with_plan(written, plans.plan_of(before))

    def put_shard(self, shard: Shard) -> None:
        before = self._shards[shard_path(shard.run, shard.index)]
        sealed = replace(shard, **sealed_keys(shard, before))
        self._attempt.put(shard_row(sealed, self.moment.now))

    def add_shards(self, run_id: str, shards: Sequence[Shard]) -> list[Shard]:
        # Every writer that adds shards writes their count: of two at once, one retries.
        row = self._attempt.get(count_path(run_id))
        if row is not None:
            row.check()
        first = row.values["count"] if row else 0
        placed = [replace(shard, index=first + shard.index) for shard in shards]
        count = max((shard.index + 1 for shard in placed), default=first)
        sealed = [replace(shard, **sealed_keys(shard)) for shard in placed]
        if len(sealed) > plans.AT_ONCE:
            self._add_plan(run_id, sealed)
        else:
            now = self.moment.now
            self._attempt.put(*(shard_row(shard, now) for shard in sealed))
        self._attempt.put(Row(count_path(run_id), {"count": count}))
        return placed

    def _add_plan(self, run_id: str, shards: Sequence[Shard]) -> None:
        """Store the shards with their run; `plans.write_out` creates their entities."""
        row = self._written[run_id]
        if plans.plan_of(row):
            raise PlanWaits(self._runs[run_id])
        sealed = plans.sealed_plan(run_id, shards)
        blob, last = self._change.saved(row.path, sealed)
        self._written[run_id] = plans.with_plan(row, blob.named(plans.PLAN))
        self._attempt.put(*last)
        self._change.planned.add(run_id)

    def put_failure(self, failure: RowFailure, delay: timedelta) -> None:
        path = failure_path(failure.run, failure.key)
        sealed = replace(failure, key=sealed_key(failure, digest_of(path)))
        self._attempt.put(failure_row(path, sealed, self.moment.now + delay))

    def forget_failure(self, run_id: str, key: str) -> None:
        self._attempt.delete(failure_path(run_id, key))
