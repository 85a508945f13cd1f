"""Reads lists of iterations and failed rows in Datastore, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloudtask.runs import (
    FailureState,
    IterationCounts,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardSums,
)
from cloudtask.stores.datastore.access import (
    Access,
    Row,
)
from cloudtask.stores.datastore.entities import (
    FAILURE,
    RUN,
    SHARD,
    digest_of,
    failure_of,
    place,
    shown_failure,
    shown_run,
    shown_shard,
)
from cloudtask.stores.datastore.paging import bounds, merged, page_along
from cloudtask.stores.datastore.prefixes import beginning, names_beginning
from cloudtask.stores.pages import MOST, Page
from cloudtask.stores.sealing import shown_key


class DatastoreLists(Access):
    """The part of DatastoreStore that lists iterations, shards and failed rows."""

    def load_shards(self, run_id: str) -> list[Shard]:
        what = f"Loading the shards of iteration {run_id}"
        rows = self.query(what, SHARD, names_beginning(SHARD, f"{run_id}:"))
        return [shown_shard(row) for row in rows]

    def page_runs(
        self,
        *,
        states: Sequence[RunState] = (),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[Run]:
        pages = [
            self._page_of_runs(*along, task=task, before=before, limit=limit)
            for along in _along(states)
        ]
        return merged(pages, limit=limit, made=_brief)

    def _page_of_runs(
        self,
        name: str,
        prefix: str,
        *,
        task: str | None,
        before: str | None,
        limit: int,
    ) -> Page[Row]:
        return page_along(
            self,
            "Listing iterations",
            RUN,
            name,
            bounds(name, prefix, before=before),
            wanted=lambda row: task in (None, row.values["task"]),
            limit=limit,
        )

    def count_iterations(self, states: Sequence[RunState]) -> IterationCounts:
        what = "Counting iterations"
        runs = {
            state: self.count(what, RUN, beginning("place", place(state)), most=MOST)
            for state in states
        }
        # Only rows that were given up have the property.
        rows = self.count(what, FAILURE, [("given_up", ">", "")], most=MOST)
        return IterationCounts(runs, rows)

    def sums_of_shards(self, run_ids: Sequence[str]) -> dict[str, ShardSums]:
        loaded = {run_id: self.load_shards(run_id) for run_id in run_ids}
        return {one: ShardSums.of(shards) for one, shards in loaded.items() if shards}

    def page_failures(
        self,
        run_id: str,
        *,
        states: Sequence[FailureState] = (),
        after: str | None = None,
        limit: int,
    ) -> Page[RowFailure]:
        what, found = f"Listing the failed rows of {run_id}", list[Row]()
        start, end = names_beginning(FAILURE, f"{run_id}:")
        if after is not None:
            start = ("__key__", ">", (FAILURE, f"{run_id}:{after}"))
        while True:
            rows = self.query(what, FAILURE, [start, end], limit=limit + 1)
            for row in rows[:limit]:
                start = ("__key__", ">", row.path)
                found += [row] if _is_in(row, states) else []
                if len(found) == limit:
                    mark = None if row is rows[-1] else digest_of(row.path)
                    return Page(tuple(map(shown, found)), mark)
            if len(rows) <= limit:
                return Page(tuple(map(shown, found)))


def _along(states: Sequence[RunState]) -> list[tuple[str, str]]:
    """The properties along which runs in `states` are listed, with their prefixes."""
    return [("place", place(state)) for state in {*states}] or [("at", "")]


def _brief(row: Row) -> Run:
    return replace(shown_run(row), options=b"", rest=None)


def _is_in(row: Row, states: Sequence[FailureState]) -> bool:
    return not states or row.values["state"] in states


def shown(row: Row) -> RowFailure:
    """The failure for a list; see `shown_key`."""
    if row.misfit:
        return shown_failure(row, key="", error=row.why, traceback="")
    run_id, _, digest = row.path[-1].rpartition(":")
    return failure_of(row, **shown_key(run_id, digest, row.values["key"]))
