"""Keeps iterations in Datastore: queries, and changes of records in transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from cloudtask.exceptions import BadSignature
from cloudtask.runs import (
    ENDED,
    MOST_DOUBLINGS,
    Run,
    RunState,
    Shard,
)
from cloudtask.stores.datastore import blobs, plans
from cloudtask.stores.datastore.access import (
    Row,
    Try,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import (
    COUNT,
    FAILURE,
    RUN,
    SHARD,
    failures_of,
    place,
    run_of,
    run_path,
    run_row,
    shard_of,
    shard_path,
    shown_run,
    shown_shard,
    sortable,
)
from cloudtask.stores.datastore.failures import DatastoreRowFailures
from cloudtask.stores.datastore.lists import DatastoreLists
from cloudtask.stores.datastore.prefixes import beginning, names_beginning
from cloudtask.stores.datastore.swap import (
    SKEW,
    Change,
    DatastoreSwap,
    PlanWaits,
    has_undone,
)
from cloudtask.stores.runs import RunStore
from cloudtask.stores.sealing import (
    opened_run,
    sealed_run,
)
from cloudtask.stores.shards import ShardStore
from cloudtask.stores.swaps import Swap
from cloudtask.transitions import Moment, may_be_walked

T = TypeVar("T")


class DatastoreIterations(DatastoreRowFailures, DatastoreLists, RunStore, ShardStore):
    """The part of DatastoreStore that keeps iterations."""

    def moment(self) -> Moment:
        return Moment(self.now(), SKEW)

    def swap(self, what: str, change: Callable[[Swap], T]) -> T:
        whole = Change(self, what)

        def work(attempt: Try) -> T:
            swap = DatastoreSwap(whole, attempt)
            result = change(swap)
            swap.write()
            return result

        while True:
            try:
                result = self.transact(what, work)
            except PlanWaits as waiting:
                self._write_out(what, waiting.run)
                continue
            for run_id in whole.planned:
                self._complete_plan(what, run_id)
            return result

    def _complete_plan(self, what: str, run_id: str) -> None:
        [row] = self.get(what, run_path(run_id))
        if row is not None:
            self._write_out(what, row)

    def _write_out(self, what: str, row: Row) -> bool:
        """Create the shards of a plan that have no entities, if there are any.

        Returns whether there were. A run whose plan was altered is FAILED.
        """
        if not plans.plan_of(row):
            return False
        try:
            plans.write_out(self, what, row)
        except BadSignature as error:
            self.refuse(shown_run(row), str(error))
        return True

    # Runs

    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        """Raises ValueError if there is a run with this id."""
        what, path, now = f"Creating iteration {run.id}", run_path(run.id), self.now()
        sealed = sealed_run(run)
        blob, last = Change(self, what).saved(path, sealed.description)

        def work(attempt: Try) -> None:
            if attempt.get(path) is not None:
                raise ValueError(f"There is an iteration {run.id} already.")
            due = None if delay is None else now + delay
            made = replace(sealed, created_at=now, due_at=due)
            attempt.put(run_row(made, blob.values, now), *last)

        self.transact(what, work)

    def read_run(self, run_id: str) -> Run | None:
        what = f"Loading iteration {run_id}"
        [row] = self.get(what, run_path(run_id))
        if row:
            row.check()
        if row and self._write_out(what, row):
            [row] = self.get(what, row.path)
        return self._whole_run(what, row) if row else None

    def fail_unreadable(self, run_id: str, why: str) -> None:
        path, now = run_path(run_id), self.now()

        def work(attempt: Try) -> None:
            row = attempt.get(path)
            if row is None or row.misfit is None:
                return
            values = {name: row.values.get(name) for name in blobs.NOTHING}
            failed = replace(
                shown_run(row), state=RunState.FAILED, error=why, lease_until=None
            )
            written = run_row(failed, values, now)
            attempt.put(plans.with_plan(written, plans.plan_of(row)))

        self.transact(f"Failing iteration {run_id}", work)

    def _whole_run(self, what: str, row: Row) -> Run:
        description = blobs.load(self, what, row)
        while description is None:
            [again] = self.get(what, row.path)
            if again is None or again.values["blob_name"] == row.values["blob_name"]:
                # Damaged. The run can still be listed, swept and cancelled. A step that
                # opens its description fails with the reason.
                return run_of(row)
            row, description = again, blobs.load(self, what, again)
        return replace(run_of(row), description=description)

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        what = "Listing iterations"
        if not states:
            rows = self.query(what, RUN, order="-at", limit=limit)
            return [self._opened(what, row) for row in rows]
        rows = [
            row
            for state in set(states)
            for row in self.query(
                what, RUN, beginning("place", place(state)), order="-place", limit=limit
            )
        ]
        rows.sort(key=lambda row: row.path)
        rows.sort(key=lambda row: row.values["created_at"], reverse=True)
        return [self._opened(what, row) for row in rows[:limit]]

    def _opened(self, what: str, row: Row) -> Run:
        if row.misfit:
            return opened_run(shown_run(row))[0]
        return opened_run(self._whole_run(what, row))[0]

    def summarize_run(self, run_id: str) -> None:
        """The counts are written first. If a call is interrupted after that, another
        call deletes the rest, and so does `delete_run`."""
        what, path = f"Summarizing iteration {run_id}", run_path(run_id)
        now = self.now()
        shards = self.load_shards(run_id)
        counts = {
            name: sum(getattr(shard, name) for shard in shards)
            for name in ("done", "failed", "skipped")
        }

        def work(attempt: Try) -> Row | None:
            row = attempt.get(path)
            run = run_of(row) if row else None
            if row is None or run is None or run.state is not RunState.FINISHED:
                return None
            if not run.is_summary:
                summary = replace(run, is_summary=True, **counts)
                attempt.put(run_row(summary, Blob.of(b"").values, now))
            return row

        before = self.transact(what, work)
        if before is not None:
            self._delete_parts(what, run_id)
            self.delete(what, [(COUNT, run_id), *blobs.paths(before)])

    def delete_run(self, run_id: str) -> None:
        """The run is deleted last, so an interrupted call can be repeated."""
        what = f"Deleting iteration {run_id}"
        [row] = self.get(what, run_path(run_id))
        self._delete_parts(what, run_id)
        chunks = [*blobs.paths(row), *blobs.paths(row, plans.PLAN)]
        self.delete(what, [(COUNT, run_id), *chunks, run_path(run_id)])

    def _delete_parts(self, what: str, run_id: str) -> None:
        for kind in (FAILURE, SHARD):
            below = names_beginning(kind, f"{run_id}:")
            found = self.query(what, kind, below, projection=["__key__"])
            self.delete(what, [one.path for one in found])

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        what, moment = "Looking for lost iterations", self.moment()
        long_ago = moment.now - older_than
        rows = self.query(what, RUN, [("unsettled", "=", True)])
        rows = [row for row in rows if row.values["touched_at"] < long_ago]
        rows.sort(key=lambda row: row.values["touched_at"])
        lost: list[Row] = []
        for row in rows:
            if len(lost) == limit:
                break
            if row.misfit:
                self.fail_unreadable(row.path[-1], row.why)
                continue
            run = run_of(row)
            if moment.is_live(run.lease_until):
                continue
            if plans.plan_of(row) or self._owes(what, run, long_ago):
                lost.append(row)
        return [self._opened(what, row) for row in lost]

    def _owes(self, what: str, run: Run, long_ago: datetime) -> bool:
        """Whether the run itself has a next step, and not just one of its shards."""
        if run.due_at is None and run.state is RunState.WAITING:
            return False
        if run.due_at is not None and run.due_at >= long_ago:
            return False
        is_walked = run.state is RunState.RUNNING and run.is_planned
        return not (is_walked and has_undone(self, what, run.id))

    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        what, long_ago = "Listing old iterations", self.now() - older_than
        old: list[str] = []
        for state in (*sorted(ENDED), RunState.WAITING):
            begin, _ = beginning("place", place(state))
            made_before = ("place", "<", place(state) + sortable(long_ago))
            for row in self.query(what, RUN, [begin, made_before], limit=limit):
                is_over = state in ENDED or row.values.get("due_at") is None
                is_over = is_over and row.misfit is None
                if is_over and row.values["touched_at"] < long_ago:
                    old.append(row.path[-1])
        return old[:limit]

    # Shards

    def load_shards(self, run_id: str) -> list[Shard]:
        """A plan of which only some shards have entities is completed first."""
        shards = super().load_shards(run_id)
        if plans.is_torn(shards):
            self._complete_plan(f"Loading the shards of iteration {run_id}", run_id)
            shards = super().load_shards(run_id)
        return shards

    def read_shard(self, run_id: str, index: int) -> Shard | None:
        what = f"Loading shard {index} of iteration {run_id}"
        [row] = self.get(what, shard_path(run_id, index))
        return shard_of(row) if row else None

    def is_at_work(self, run_id: str) -> bool:
        moment = self.moment()
        return any(may_be_walked(shard, moment) for shard in self.load_shards(run_id))

    def stale_shards(self, *, older_than: timedelta, limit: int) -> list[Shard]:
        """By way of the runs, of which few are RUNNING. An index of the time at which
        each shard was touched would be written with every checkpoint."""
        what, moment = "Looking for lost shards", self.moment()
        running = beginning("place", place(RunState.RUNNING))
        lost: list[Row] = []
        for run in self.query(what, RUN, running, projection=["__key__"]):
            undone = [("undone_of", "=", run.path[-1])]
            lost += [
                row
                for row in self.query(what, SHARD, undone)
                if row.values["touched_at"] < moment.now - _patience(row, older_than)
                and not may_be_walked(shown_shard(row), moment)
                and not self._rests(what, shown_shard(row), moment)
            ]
        lost.sort(key=lambda row: row.values["touched_at"])
        return [shard for row in lost[:limit] for shard in self._lost_shard(row)]

    def _lost_shard(self, row: Row) -> list[Shard]:
        """The shard of a row, or none if its run is FAILED because of it."""
        with suppress(BadSignature), self._refusing(shown_shard(row).run):
            return [shard_of(row)]
        return []

    def _rests(self, what: str, shard: Shard, moment: Moment) -> bool:
        """Whether the shard just waits for the next try of a row."""
        if not shard.is_walked:
            return False
        of_shard = failures_of(shard.run, shard.index)
        _, end = beginning("due", of_shard)
        later = [("due", ">", of_shard + sortable(moment.now)), end]
        return bool(self.query(what, FAILURE, later, projection=["__key__"], limit=1))


def _patience(row: Row, older_than: timedelta) -> timedelta:
    return older_than * (1 << min(shown_shard(row).sweeps, MOST_DOUBLINGS))
