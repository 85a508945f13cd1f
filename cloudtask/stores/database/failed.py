"""Keeps failed tasks in a relational database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import (
    Count,
    Max,
    Min,
    QuerySet,
    TextField,
    Value,
)
from django.db.models.functions import Concat, Left

from cloudtask.clock import database_now as now
from cloudtask.clock import database_time
from cloudtask.stores.database.fitting import converted, fetched, mend, place_of
from cloudtask.stores.database.paging import count_up_to, page_of
from cloudtask.stores.database.records import aware, aware_at
from cloudtask.stores.failed import (
    BRIEF,
    EVERY,
    FailedCall,
    FailedFilter,
    FailedGroup,
    FailedStore,
)
from cloudtask.stores.fitting import YEARS, Unreadable
from cloudtask.stores.pages import MOST, Page
from cloudtask.stores.transactions import Database

if TYPE_CHECKING:
    from datetime import timedelta

    from cloudtask.models import FailedTask


class DatabaseFailed(Database, FailedStore):
    """The part of DatabaseStore that keeps failed tasks."""

    @property
    def _failed(self) -> QuerySet[FailedTask]:
        from cloudtask.models import FailedTask

        return FailedTask.objects.using(self.database)

    def _wanted(self, wanted: FailedFilter) -> QuerySet[FailedTask]:
        same = ("task", "kind", "group", "queue")
        exact = {n: getattr(wanted, n) for n in same if getattr(wanted, n) is not None}
        rows = self._failed.filter(**exact)
        if wanted.since is not None:
            rows = rows.filter(failed_at__gte=database_time(wanted.since))
        if wanted.until is not None:
            rows = rows.filter(failed_at__lte=database_time(wanted.until))
        return rows

    def save_failed(self, failed: FailedCall) -> None:
        values = {f: getattr(failed, f) for f in (*_KEPT, "envelope")}
        with self.writing(f"Keeping failed task {failed.key}"):
            self._failed.update_or_create(
                key=failed.key, defaults={**values, "failed_at": now()}
            )

    def load_failed(self, key: str) -> FailedCall | None:
        with self.writing(f"Loading failed task {key}"):
            rows = fetched(self._failed.filter(key=key))
        if not rows:
            return None
        row = rows[0]
        if why := mend(row):
            row.error, row.envelope = f"{why}\n{row.error}", b""
        values = {f: getattr(row, f) for f in _KEPT}
        return FailedCall(
            key=row.key,
            envelope=bytes(row.envelope),
            failed_at=aware(row.failed_at, row),
            **values,
        )

    def page_failed(
        self, wanted: FailedFilter = EVERY, *, before: str | None = None, limit: int
    ) -> Page[FailedCall]:
        # Envelopes, arguments and tracebacks are large, and no list needs them.
        rows = self._wanted(wanted).annotate(brief_error=Left("error", BRIEF))
        rows = rows.defer("envelope", "arguments", "traceback", "error")
        with self.reading("Listing failed tasks"):
            return page_of(rows, "failed_at", mark=before, limit=limit, made=_brief)

    def count_failed(self, wanted: FailedFilter = EVERY, *, most: int = MOST) -> int:
        with self.reading("Counting failed tasks"):
            return count_up_to(self._wanted(wanted), most)

    def failed_groups(
        self, wanted: FailedFilter = EVERY, *, limit: int
    ) -> list[FailedGroup]:
        groups = self._wanted(wanted).values("group", "task", "kind")
        groups = groups.annotate(
            number=Count("pk"),
            first_at=Min("failed_at"),
            last_at=Max("failed_at"),
            # Of one call: the key decides which, and is cut off again.
            sample=Max(_SAMPLE),
        ).order_by("-number", "group", "task", "kind")
        with self.reading("Grouping failed tasks"):
            found: list[Any] = converted(lambda: list[Any](groups[:limit]), list)
            if not found or not all(map(_fits, found)):
                found = self._one_by_one(wanted)[:limit]
        return [self._group(one) for one in found]

    def _one_by_one(self, wanted: FailedFilter) -> list[dict[str, Any]]:
        """The groups of the latest calls, one of which may have what can't be read."""
        rows = self._wanted(wanted).defer("envelope", "arguments", "traceback")
        groups: dict[Any, dict[str, Any]] = {}
        for row in fetched(rows.order_by("-failed_at")[:READ]):
            why = mend(row)
            same = {name: getattr(row, name) for name in _SAME}
            new = {"number": 0, "last_at": row.failed_at}
            one = groups.setdefault(tuple(same.values()), {**same, **new})
            one["number"] += 1
            one["first_at"] = row.failed_at
            one["sample"] = f"|{why or row.error[:BRIEF]}"
        return sorted(groups.values(), key=lambda one: -one["number"])

    def _group(self, one: dict[str, Any]) -> FailedGroup:
        error = one.pop("sample").partition("|")[2]
        for column in ("first_at", "last_at"):
            one[column] = aware_at(one[column], self.database)
        return FailedGroup(**one, error=error)

    def find_failed(self, start: str, *, limit: int) -> list[str]:
        rows = self._failed.filter(key__startswith=start).order_by("key")
        with self.reading("Looking for failed tasks"):
            return list(rows.values_list("key", flat=True)[:limit])

    def delete_failed(self, key: str) -> bool:
        with self.writing(f"Deleting failed task {key}"):
            return bool(self._failed.filter(key=key).delete()[0])

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        old = self._failed.filter(failed_at__lt=now() - older_than)
        with self.writing("Listing old failed tasks"):
            return list(old.values_list("key", flat=True)[:limit])


def _fits(group: dict[str, Any]) -> bool:
    is_text = all(isinstance(group[name], str) for name in (*_SAME, "sample"))
    return is_text and group["last_at"].year in YEARS


READ = 1_000  # calls that are read to group them, if the database can't
_SAME = ("group", "task", "kind")
_SAMPLE = Concat("key", Value("|"), Left("error", BRIEF), output_field=TextField())
_LISTED = ("task", "queue", "name", "attempts", "enqueued_at", "kind", "group")
_KEPT = (*_LISTED, "arguments", "error", "traceback")


def _brief(row: Any) -> FailedCall:
    why = mend(row)
    if why or not isinstance(row.brief_error, str):
        row.brief_error = why or str(Unreadable(place_of(row, "error")))
    values = {f: getattr(row, f) for f in _LISTED}
    return FailedCall(
        key=row.key,
        envelope=b"",
        arguments="",
        traceback="",
        error=row.brief_error,
        failed_at=aware(row.failed_at, row),
        **values,
    )
