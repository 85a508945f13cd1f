"""Keeps the results of calls in Datastore."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from cloudtask.stores.datastore import blobs, paging
from cloudtask.stores.datastore.access import Access, Path, Row, Try
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import moment, shortened
from cloudtask.stores.pages import Page
from cloudtask.stores.results import ResultState, ResultStore, StoredResult

RESULT = "CloudtaskResult"
LARGE = 500_000  # bytes of a value that lie in its own entity

_KEPT = ("task", "queue", "error", "traceback")


class DatastoreResults(Access, ResultStore):
    """The part of DatastoreStore that keeps results.

    `fresh_until` is `expires_at` until the value is removed.
    """

    def save_result(self, result: StoredResult, keep: timedelta) -> None:
        what, path = f"Saving the result of {result.id}", (RESULT, result.id)
        data = result.value or b""
        blob = Blob.of(data, inline=LARGE)
        last = blobs.save(self, what, path, blob, data)
        row = _row(path, result, blob, self.now(), keep)

        def work(attempt: Try) -> None:
            before = attempt.get(path)
            if before is None or before.values["state"] != ResultState.SUCCEEDED.value:
                attempt.put(row, *last)
                attempt.delete(*blobs.paths(before))

        self.transact(what, work)

    def load_result(self, key: str) -> StoredResult | None:
        what, path = f"Loading the result of {key}", (RESULT, key)
        [row] = self.get(what, path)
        if row is None:
            return None
        row.check()
        result = _result(row)
        if moment(row.values["expires_at"]) < self.now():
            return replace(result, error="", traceback="")
        is_removed = Blob.read(row.values) is None
        if is_removed or result.state is not ResultState.SUCCEEDED:
            return result
        return replace(result, value=blobs.load(self, what, row))

    def page_results(
        self,
        *,
        states: Collection[ResultState] = tuple(ResultState),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[StoredResult]:
        values = {state.value for state in states}

        def wanted(row: Row) -> bool:
            is_of_task = task is None or row.values["task"] == task
            return is_of_task and row.values["state"] in values

        filters = paging.bounds("at", "", before=before)
        what, kind = "Listing results", RESULT
        found = paging.page_along(
            self, what, kind, "at", filters, wanted=wanted, limit=limit
        )
        return paging.paged(found, _brief)

    def prune_results(self, forget_after: timedelta, limit: int) -> int:
        """A result is forgotten once its value, which may have chunks, is removed."""
        what, now = "Pruning results", self.now()
        expired = [("fresh_until", "<", now)]
        rows = self.query(what, RESULT, expired, projection=["__key__"], limit=limit)
        for row in rows:
            self._empty(row.path, now)
        if len(rows) < limit:
            old = [("expires_at", "<", now - forget_after)]
            found = self.query(what, RESULT, old, projection=["__key__"], limit=limit)
            self.delete(what, [row.path for row in found])
        return len(rows)

    def _empty(self, path: Path, now: datetime) -> None:
        def work(attempt: Try) -> None:
            row = attempt.get(path)
            if row is None or moment(row.values["expires_at"]) >= now:
                return
            values = {**row.values, **blobs.NOTHING, "error": "", "traceback": ""}
            del values["fresh_until"]
            attempt.put(replace(row, values=values))
            attempt.delete(*blobs.paths(row))

        self.transact("Pruning results", work)


def _row(
    path: Path, result: StoredResult, blob: Blob, now: datetime, keep: timedelta
) -> Row:
    values = {name: shortened(getattr(result, name)) for name in _KEPT}
    values |= blob.values
    values |= {
        "state": result.state.value,
        "enqueued_at": result.enqueued_at,
        "finished_at": now,
        "expires_at": now + keep,
        "fresh_until": now + keep,
    }
    values["at"] = paging.placed("", result.enqueued_at, result.id)
    return Row(path, values, ("at", "expires_at", "fresh_until"))


def _brief(row: Row) -> StoredResult:
    brief = replace(_result(row), error=row.why, traceback="")
    return replace(brief, state=ResultState.FAILED) if row.misfit else brief


def _result(row: Row) -> StoredResult:
    values = {name: row.values[name] for name in _KEPT}
    for name in ("enqueued_at", "finished_at", "expires_at"):
        values[name] = moment(row.values[name])
    state = ResultState(row.values["state"])
    return StoredResult(id=row.path[-1], state=state, **values)
