"""Keeps the rows that failed in a relational database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloudtask.clock import database_now as now
from cloudtask.runs import GIVEN_UP, FailureState, RowFailure
from cloudtask.stores.database.fitting import check, fetched
from cloudtask.stores.database.records import Tables, failure_of, shown
from cloudtask.stores.pages import Page
from cloudtask.stores.sealing import opened_key
from cloudtask.stores.shards import ShardStore
from cloudtask.stores.swaps import Swap
from cloudtask.stores.transactions import MOST_KEYS, delete_by_key
from cloudtask.transitions import reopened


class DatabaseRowFailures(Tables, ShardStore):
    """The part of DatabaseStore that keeps failed rows."""

    database: str

    def load_failures(
        self, run_id: str, *, shard: int | None = None, limit: int = 1000
    ) -> list[RowFailure]:
        rows = self.failures.filter(run_id=run_id)
        if shard is not None:
            rows = rows.filter(shard=shard)
        with self.reading(f"Loading the failed rows of {run_id}"):
            found = fetched(rows.order_by("pk")[:limit])
        return [shown(row) for row in found]

    def page_failures(
        self,
        run_id: str,
        *,
        states: Sequence[FailureState] = (),
        after: str | None = None,
        limit: int,
    ) -> Page[RowFailure]:
        rows = self.failures.filter(run_id=run_id)
        if states:
            rows = rows.filter(state__in=states)
        if after is not None:
            rows = rows.filter(digest__gt=after)
        with self.reading(f"Listing the failed rows of {run_id}"):
            found = fetched(rows.order_by("digest")[: limit + 1])
        page = found[:limit]
        mark = page[-1].digest if len(found) > limit else None
        return Page(tuple(map(shown, page)), mark)

    def waiting_failures(
        self, run_id: str, shard: int, *, limit: int
    ) -> tuple[list[RowFailure], float | None]:
        rows = self.failures.filter(
            run_id=run_id, shard=shard, state=FailureState.WAITING
        ).order_by("due_at")
        with self.reading(f"Loading the rows of {run_id} that wait"):
            # One query has one moment: by a second one, a row could have become due.
            # One extra row shows when the next one is due.
            found = fetched(rows.annotate(now=now())[: limit + 1])
        with self._refusing(run_id):
            for row in found:
                check(row)
            due = [
                failure_of(row, key=opened_key(run_id, row.digest, row.key))
                for row in found[:limit]
                if row.due_at <= row.now
            ]
        if len(found) == len(due):
            return due, None
        following = found[len(due)]
        return due, max(0.0, (following.due_at - following.now).total_seconds())

    def count_failures(self, run_id: str, *, given_up: bool = False) -> int:
        rows = self.failures.filter(run_id=run_id)
        if given_up:
            rows = rows.filter(state__in=GIVEN_UP)
        with self.reading(f"Counting the failed rows of {run_id}"):
            return rows.count()

    def ids_with_failures(self, limit: int) -> list[str]:
        given_up = self.failures.filter(state__in=GIVEN_UP).order_by("run_id")
        with self.reading("Looking for iterations with failed rows"):
            return list(given_up.values_list("run_id", flat=True).distinct()[:limit])

    def discard_failures(self, run_id: str) -> int:
        given_up = self.failures.filter(run_id=run_id, state__in=GIVEN_UP)
        discarded = 0
        while True:
            with self.writing(f"Discarding the failed rows of {run_id}"):
                # Locked, so that none of them is opened again before it is deleted.
                rows = given_up.select_for_update()[:MOST_KEYS]
                keys = list(rows.values_list("pk", flat=True))
                discarded += delete_by_key(given_up, keys)
            if len(keys) < MOST_KEYS:
                return discarded

    def reopen_failures(self, run_id: str) -> int:
        what = f"Reopening the failed rows of {run_id}"
        given_up = self.failures.filter(run_id=run_id, state__in=GIVEN_UP)
        opened = 0
        with self.writing(what):
            for index in sorted(set(given_up.values_list("shard", flat=True))):
                rows = given_up.filter(shard=index).update(
                    state=FailureState.WAITING, due_at=now(), attempts=0
                )
                self.swap(what, _reopening(run_id, index, rows))
                opened += rows
        return opened


def _reopening(run_id: str, index: int, rows: int) -> Callable[[Swap], None]:
    def change(swap: Swap) -> None:
        if shard := swap.shard(run_id, index):
            swap.put_shard(reopened(shard, rows=rows))

    return change
