"""Runs of iterations in Datastore: every change is a transaction over the run.

`try_finalize` needs to know that no shard is undone, and shards are groups of their
own. It reads the run in its transaction, then asks, outside of it, for one undone
shard, then commits the run. Nothing that makes a shard undone can slip in between:

* a split comes from a shard that is itself undone, which the query would have found;
* a plan is written together with the run, so that one of the two commits conflicts;
* `reopen_failures` may, as it may right after: it leaves the state to its caller.

So the transaction locks the run's own entity only, however many shards there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cloudtask.runs import ENDED, RUN_TRANSITIONS, Run, RunState, Shard
from cloudtask.stores.datastore import blobs
from cloudtask.stores.datastore.access import (
    Access,
    Attempt,
    Row,
    beginning,
    names_beginning,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import (
    COUNT,
    FAILURE,
    RUN,
    SHARD,
    count_path,
    place,
    run_of,
    run_path,
    run_row,
    shard_row,
    sortable,
)
from cloudtask.stores.datastore.leases import is_live

MOST_SHARDS = 490  # that one plan can have: a commit has at most 500 mutations

Change = Callable[[Run], Run | None]


class DatastoreRuns(Access):
    """The part of DatastoreStore that keeps runs."""

    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        """Raises ValueError when there is one of this id."""
        what, path, now = f"Creating iteration {run.id}", run_path(run.id), self.now()
        blob = Blob.of(run.description)
        last = blobs.save(self, what, path, blob, run.description)

        def work(attempt: Attempt) -> None:
            if attempt.get(path) is not None:
                raise ValueError(f"There is an iteration {run.id} already.")
            due = None if delay is None else now + delay
            made = replace(run, created_at=now, due_at=due)
            attempt.put(run_row(made, blob.values, now), *last)

        self.transact(what, work)

    def load_run(self, run_id: str) -> Run | None:
        what = f"Loading iteration {run_id}"
        [row] = self.get(what, run_path(run_id))
        return self._run(what, row) if row else None

    def _run(self, what: str, row: Row) -> Run:
        description = blobs.load(self, what, row)
        while description is None:
            [again] = self.get(what, row.path)
            if again is None or again.values["blob_name"] == row.values["blob_name"]:
                # Damaged. The run can still be listed, swept and cancelled; who unseals
                # what is left is told.
                return run_of(row)
            row, description = again, blobs.load(self, what, again)
        return run_of(row, description)

    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        what = "Listing iterations"
        if not states:
            rows = self.query(what, RUN, order="-created_at", limit=limit)
            return [self._run(what, row) for row in rows]
        rows = [
            row
            for state in set(states)
            for row in self.query(
                what, RUN, beginning("place", place(state)), order="-place", limit=limit
            )
        ]
        rows.sort(key=lambda row: row.path)
        rows.sort(key=lambda row: row.values["created_at"], reverse=True)
        return [self._run(what, row) for row in rows[:limit]]

    def change_run(
        self,
        run_id: str,
        *,
        to: RunState,
        only_from: Sequence[RunState],
        generation: int | None = None,
        error: str | None = None,
        description: bytes | None = None,
    ) -> bool:
        what, path, now = f"Changing iteration {run_id}", run_path(run_id), self.now()
        blob: Blob | None = None
        last: Sequence[Row] = ()
        if description is not None:
            blob = Blob.of(description)
            last = blobs.save(self, what, path, blob, description)

        def work(attempt: Attempt) -> bool:
            row = attempt.get(path)
            if row is None:
                return False
            run = run_of(row)
            if run.state not in only_from or to not in RUN_TRANSITIONS[run.state]:
                return False
            if generation not in (None, run.generation):
                return False
            changed = _entering(run, to, now)
            if error is not None:
                changed = replace(changed, error=error)
            if blob is None:
                attempt.put(_same_blob(row, changed, now))
                return True
            attempt.put(run_row(changed, blob.values, now), *last)
            attempt.delete(*blobs.paths(row))
            return True

        return self.transact(what, work)

    def add_part(
        self,
        run_id: str,
        part: int,
        shards: Sequence[Shard],
        *,
        total: int,
        is_estimated: bool = False,
        rest: str | None = None,
    ) -> bool:
        """Raises ValueError for more shards than one commit can hold."""
        if len(shards) > MOST_SHARDS:
            raise ValueError(f"A plan has at most {MOST_SHARDS} shards in Datastore.")
        now = self.now()

        def work(attempt: Attempt) -> bool:
            row, count = attempt.get_all(run_path(run_id), count_path(run_id))
            run = run_of(row) if row else None
            if row is None or run is None or not _awaits(run, part):
                return False
            planned = _with_part(run, total=total, rest=rest, now=now)
            if is_estimated:
                planned = replace(planned, is_estimated=True)
            first = count.values["count"] if count else 0
            following = max((shard.index for shard in shards), default=-1) + 1
            attempt.put(
                _same_blob(row, planned, now),
                *(
                    shard_row(replace(shard, index=first + shard.index), now)
                    for shard in shards
                ),
                Row(count_path(run_id), {"count": first + following}),
            )
            return True

        return self.transact(f"Planning iteration {run_id}", work)

    def acquire_run(
        self, run_id: str, *, state: RunState, lease: timedelta, is_call: bool = False
    ) -> Run | None:
        what, now = f"Leasing iteration {run_id}", self.now()

        def leased(run: Run) -> Run | None:
            if run.state is not state or is_live(run.lease_until, now):
                return None
            return replace(
                run,
                fence=run.fence + 1,
                attempts=run.attempts + int(is_call),
                lease_until=now + lease,
            )

        return self._changed(what, run_id, leased)

    def settle_run(
        self,
        run: Run,
        *,
        to: RunState | None,
        error: str | None = None,
        waiting: str = "",
        delay: timedelta | None = None,
    ) -> bool:
        now = self.now()

        def settled(found: Run) -> Run | None:
            if found.fence != run.fence:
                return None
            free = replace(found, lease_until=None, waiting=waiting)
            if error is not None:
                free = replace(free, error=error)
            if delay is not None:
                free = replace(free, due_at=now + delay)
            if to is None:
                return free
            if to not in RUN_TRANSITIONS[found.state]:
                return None
            # Kept from the first end on: it tells that finalize has run.
            is_end = to in ENDED and to is not RunState.FAILED
            ended = found.finished_at or (now if is_end else None)
            return replace(free, state=to, due_at=None, finished_at=ended)

        return self._change(f"Settling iteration {run.id}", run.id, settled) is not None

    def try_finalize(self, run_id: str) -> bool:
        what, now = f"Finalizing iteration {run_id}", self.now()

        def finalizing(run: Run) -> Run | None:
            if run.state is not RunState.RUNNING or not run.is_planned:
                return None
            if self.has_undone(what, run_id):
                return None
            return _entering(run, RunState.FINALIZING, now)

        return self._change(what, run_id, finalizing) is not None

    def set_pace(
        self, run_id: str, *, leg_limit: float | None, killed_after: float | None
    ) -> None:
        def paced(run: Run) -> Run:
            return replace(run, leg_limit=leg_limit, killed_after=killed_after)

        self._change(f"Pacing iteration {run_id}", run_id, paced)

    def summarize_run(self, run_id: str) -> None:
        """The counts are written first. If a call is interrupted after that, another
        call deletes the rest, and so does `delete_run`."""
        what, path, now = (
            f"Summarizing iteration {run_id}",
            run_path(run_id),
            self.now(),
        )
        shards = self.query(what, SHARD, names_beginning(SHARD, f"{run_id}:"))
        counts = {
            name: sum(row.values[name] for row in shards)
            for name in ("done", "failed", "skipped")
        }

        def work(attempt: Attempt) -> Row | None:
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

    def touch_run(self, run_id: str) -> None:
        self._change(f"Touching iteration {run_id}", run_id, lambda run: run)

    def has_undone(self, what: str, run_id: str) -> bool:
        undone = [("undone_of", "=", run_id)]
        found = self.query(what, SHARD, undone, projection=["__key__"], limit=1)
        return bool(found)

    def bump_run(self, run: Run) -> Run | None:
        now = self.now()

        def bumped(found: Run) -> Run | None:
            if (found.generation, found.state) != (run.generation, run.state):
                return None
            if is_live(found.lease_until, now):
                return None
            return replace(found, generation=found.generation + 1)

        return self._changed(f"Renumbering iteration {run.id}", run.id, bumped)

    def _changed(self, what: str, run_id: str, change: Change) -> Run | None:
        """What `change` makes of the run, written; None when that is None."""
        result = self._change(what, run_id, change)
        if result is None:
            return None
        changed, row = result
        return replace(changed, description=self._run(what, row).description)

    def _change(self, what: str, run_id: str, change: Change) -> tuple[Run, Row] | None:
        """The same, without the description, which may take long to read, and with
        the row as it was before."""
        path = run_path(run_id)

        def work(attempt: Attempt) -> tuple[Run, Row] | None:
            row = attempt.get(path)
            changed = change(run_of(row)) if row else None
            if row is None or changed is None:
                return None
            attempt.put(_same_blob(row, changed, self.now()))
            return changed, row

        return self.transact(what, work)

    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        what, now = "Looking for lost iterations", self.now()
        rows = self.query(what, RUN, [("unsettled", "=", True)])
        rows = [row for row in rows if row.values["touched_at"] < now - older_than]
        rows.sort(key=lambda row: row.values["touched_at"])
        lost: list[Row] = []
        for row in rows:
            run = run_of(row)
            if len(lost) == limit:
                break
            if is_live(run.lease_until, now):
                continue
            if self._owes(what, run, now - older_than):
                lost.append(row)
        return [self._run(what, row) for row in lost]

    def _owes(self, what: str, run: Run, long_ago: datetime) -> bool:
        """Whether the run itself has something to do next, not one of its shards."""
        if run.due_at is None and run.state is RunState.WAITING:
            return False
        if run.due_at is not None and run.due_at >= long_ago:
            return False
        is_walked = run.state is RunState.RUNNING and run.is_planned
        return not (is_walked and self.has_undone(what, run.id))

    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        what, long_ago = "Listing old iterations", self.now() - older_than
        old: list[str] = []
        for state in (*sorted(ENDED), RunState.WAITING):
            begin, _ = beginning("place", place(state))
            made_before = ("place", "<", place(state) + sortable(long_ago))
            for row in self.query(what, RUN, [begin, made_before], limit=limit):
                is_over = state in ENDED or row.values.get("due_at") is None
                if is_over and row.values["touched_at"] < long_ago:
                    old.append(row.path[-1])
        return old[:limit]

    def delete_run(self, run_id: str) -> None:
        """The run goes last: a call that was interrupted can be repeated."""
        what = f"Deleting iteration {run_id}"
        [row] = self.get(what, run_path(run_id))
        self._delete_parts(what, run_id)
        self.delete(what, [(COUNT, run_id), *blobs.paths(row), run_path(run_id)])

    def _delete_parts(self, what: str, run_id: str) -> None:
        for kind in (FAILURE, SHARD):
            below = names_beginning(kind, f"{run_id}:")
            found = self.query(what, kind, below, projection=["__key__"])
            self.delete(what, [one.path for one in found])


def _entering(run: Run, to: RunState, now: Any) -> Run:
    started = now if to is RunState.RUNNING else None
    return replace(
        run,
        state=to,
        generation=run.generation + 1,
        attempts=0,
        due_at=None,
        waiting="",
        started_at=run.started_at or started,
    )


def _awaits(run: Run, part: int) -> bool:
    return run.part == part and not run.is_planned and run.state not in ENDED


def _with_part(run: Run, *, total: int, rest: str | None, now: datetime) -> Run:
    is_begun = run.state is RunState.PLANNING
    return replace(
        run,
        is_planned=rest is None,
        part=run.part + 1,
        rest=rest,
        total=run.total + total,
        state=RunState.RUNNING if is_begun else run.state,
        started_at=run.started_at or now,
    )


def _same_blob(row: Row, run: Run, now: Any) -> Row:
    """The entity of `run`, whose description stays where `row` has it."""
    blob = {name: row.values[name] for name in blobs.NOTHING}
    return run_row(run, blob, now)
