"""Keeps failed tasks in Datastore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from cloudtask.exceptions import PayloadLost
from cloudtask.stores.datastore import blobs
from cloudtask.stores.datastore.access import (
    Access,
    Path,
    Row,
    Try,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.calls import deleted
from cloudtask.stores.datastore.entities import moment, shortened, sortable
from cloudtask.stores.datastore.paging import bounds, page_along, paged, placed
from cloudtask.stores.datastore.prefixes import names_beginning
from cloudtask.stores.failed import (
    BRIEF,
    EVERY,
    FailedCall,
    FailedFilter,
    FailedGroup,
    FailedStore,
)
from cloudtask.stores.pages import MOST, Page

FAILED = "CloudtaskFailedTask"

LARGE = 500_000  # bytes of a failed task's envelope that lie in its own entity
GROUPED = 10_000  # failed tasks that are read to group them


class DatastoreFailed(Access, FailedStore):
    """The part of DatastoreStore that keeps failed tasks.

    They are found along three properties: `at` by time, `place` by task and time, and
    `cluster` by group and time.
    """

    def save_failed(self, failed: FailedCall) -> None:
        what, path = f"Keeping failed task {failed.key}", (FAILED, failed.key)
        blob = Blob.of(failed.envelope, inline=LARGE)
        last = blobs.save(self, what, path, blob, failed.envelope)
        row = _failed_row(path, failed, blob, self.now())

        def work(attempt: Try) -> None:
            replaced = blobs.paths(attempt.get(path))
            attempt.put(row, *last)
            attempt.delete(*replaced)

        self.transact(what, work)

    def load_failed(self, key: str) -> FailedCall | None:
        what = f"Loading failed task {key}"
        [row] = self.get(what, (FAILED, key))
        if row is None:
            return None
        if row.misfit:
            found = _failed_call(row, b"")
            return replace(found, error=f"{row.why}\n{found.error}")
        envelope = blobs.load(self, what, row)
        if envelope is None:
            raise PayloadLost(
                f"The failed task {key!r} is damaged: the chunks of its envelope are "
                "missing or not what was saved."
            )
        return _failed_call(row, envelope)

    def page_failed(
        self, wanted: FailedFilter = EVERY, *, before: str | None = None, limit: int
    ) -> Page[FailedCall]:
        name, prefix = _along(wanted)
        filters = bounds(
            name, prefix, since=wanted.since, until=wanted.until, before=before
        )
        page = page_along(
            self,
            "Listing failed tasks",
            FAILED,
            name,
            filters,
            wanted=lambda row: _is_wanted(row, wanted),
            limit=limit,
        )
        return paged(page, _brief)

    def count_failed(self, wanted: FailedFilter = EVERY, *, most: int = MOST) -> int:
        what, (name, prefix) = "Counting failed tasks", _along(wanted)
        filters = bounds(name, prefix, since=wanted.since, until=wanted.until)
        if wanted.kind is wanted.queue is None and not (wanted.group and wanted.task):
            return self.count(what, FAILED, filters, most=most)
        rows = self.query(what, FAILED, filters, limit=GROUPED)
        return min(most, sum(_is_wanted(row, wanted) for row in rows))

    def failed_groups(
        self, wanted: FailedFilter = EVERY, *, limit: int
    ) -> list[FailedGroup]:
        """Of the first GROUPED failed tasks: Datastore itself groups nothing."""
        what = "Grouping failed tasks"
        prefix = f"{wanted.group} " if wanted.group is not None else ""
        rows = self.query(
            what,
            FAILED,
            bounds("cluster", prefix),
            order="cluster",
            projection=["cluster"],
            limit=GROUPED,
        )
        clusters = list(_clusters(rows, wanted))
        samples = self.get(what, *((FAILED, one.sample) for one in clusters))
        groups = [
            _group(one, row)
            for one, row in zip(clusters, samples, strict=True)
            if row is not None and _is_wanted(row, wanted)
        ]
        groups.sort(key=lambda one: (-one.number, one.group))
        return groups[:limit]

    def find_failed(self, start: str, *, limit: int) -> list[str]:
        rows = self.query(
            "Looking for failed tasks",
            FAILED,
            names_beginning(FAILED, start),
            projection=["__key__"],
            limit=limit,
        )
        return [row.path[-1] for row in rows]

    def delete_failed(self, key: str) -> bool:
        return self.transact(
            f"Deleting failed task {key}",
            lambda attempt: deleted(attempt, (FAILED, key)),
        )

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        old = [("at", "<", sortable(self.now() - older_than))]
        rows = self.query(
            "Listing old failed tasks",
            FAILED,
            old,
            projection=["__key__"],
            limit=limit,
        )
        return [row.path[-1] for row in rows]


_KEPT = (
    *("task", "queue", "name", "arguments", "error", "traceback", "attempts"),
    *("kind", "group"),
)


def _place(task: str) -> str:
    """The prefix of the places of failed calls of `task`.

    It is a hash because a task's path may be longer than an index allows.
    """
    return hashlib.sha256(task.encode()).hexdigest() + " "


def _along(wanted: FailedFilter) -> tuple[str, str]:
    """The property that serves a filter best, and its prefix."""
    if wanted.group is not None:
        return "cluster", f"{wanted.group} "
    if wanted.task is not None:
        return "place", _place(wanted.task)
    return "at", ""


def _is_wanted(row: Row, wanted: FailedFilter) -> bool:
    """Whether a row has what no index was asked for."""
    return all(
        getattr(wanted, name) in (None, row.values.get(name, ""))
        for name in ("task", "kind", "group", "queue")
    )


def _failed_row(path: Path, failed: FailedCall, blob: Blob, now: datetime) -> Row:
    values = {name: shortened(getattr(failed, name)) for name in _KEPT}
    values |= blob.values
    values |= {"enqueued_at": failed.enqueued_at, "failed_at": now}
    values["at"] = placed("", now, failed.key)
    values["place"] = placed(_place(failed.task), now, failed.key)
    values["cluster"] = placed(f"{failed.group} ", now, failed.key)
    return Row(path, values, ("at", "place", "cluster"))


def _failed_call(row: Row, envelope: bytes) -> FailedCall:
    values = {name: row.values[name] for name in _KEPT}
    return FailedCall(
        key=row.path[-1],
        envelope=envelope,
        enqueued_at=moment(row.values["enqueued_at"]),
        failed_at=moment(row.values["failed_at"]),
        **values,
    )


def _brief(row: Row) -> FailedCall:
    error = row.why or row.values["error"][:BRIEF]
    short = {"arguments": "", "traceback": "", "error": error}
    return _failed_call(Row(row.path, {**row.values, **short}), b"")


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The calls of a group, by their projection."""

    sample: str
    times: list[str]


def _clusters(rows: list[Row], wanted: FailedFilter) -> Iterator[_Cluster]:
    since = sortable(wanted.since) if wanted.since else ""
    until = sortable(wanted.until) if wanted.until else "~"
    parts = [row.values["cluster"].rsplit(" ", 2) for row in rows]
    parts = [one for one in parts if since <= one[1] <= until]
    for _, members in groupby(parts, key=lambda one: one[0]):
        alike = list(members)
        yield _Cluster(sample=alike[-1][2], times=[time for _, time, _ in alike])


def _group(cluster: _Cluster, row: Row) -> FailedGroup:
    values: dict[str, Any] = {n: row.values[n] for n in ("group", "task", "kind")}
    return FailedGroup(
        **values,
        number=len(cluster.times),
        first_at=_read(cluster.times[0]),
        last_at=_read(cluster.times[-1]),
        error=row.values["error"][:BRIEF],
    )


def _read(time: str) -> datetime:
    return datetime.fromisoformat(time).replace(tzinfo=UTC)
