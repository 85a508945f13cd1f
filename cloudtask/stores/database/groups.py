"""Keeps groups in the tables of this app."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from cloudtask import clock
from cloudtask.clock import database_now as now
from cloudtask.stores.compiled import Statement, selecting
from cloudtask.stores.database.fitting import check, converted, fetched, mend
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import aware
from cloudtask.stores.groups import (
    MOST_NEIGHBOURS,
    GroupProgress,
    GroupStore,
    StoredGroup,
    StoredMember,
    neighbours,
)
from cloudtask.stores.pages import Page
from cloudtask.stores.transactions import apart, delete_by_key, inserted, translated

A_WHILE = timedelta(hours=1)
MOST = 2_000_000_000  # members of a group, by far

if TYPE_CHECKING:
    from cloudtask.models import WorkflowGroup, WorkflowMember


class DatabaseGroups(GroupStore):
    """The part of DatabaseStore that keeps groups."""

    database: str

    @property
    def _groups(self) -> QuerySet[WorkflowGroup]:
        from cloudtask.models import WorkflowGroup

        return WorkflowGroup.objects.using(self.database)

    @property
    def _members(self) -> QuerySet[WorkflowMember]:
        from cloudtask.models import WorkflowMember

        return WorkflowMember.objects.using(self.database)

    def _at(self, what: str) -> AbstractContextManager[None]:
        return translated(what, self.database)

    def create_group(self, group: StoredGroup, *, joins: str | None = None) -> None:
        what = f"Saving group {group.id}"
        row = self._groups.model(
            id=group.id,
            total=group.total,
            rest=group.rest,
            is_partial=group.is_partial,
            created_at=now(),
            touched_at=now(),
        )
        with self._at(what):
            if joins == self.database:
                inserted(row, self.database)
                return
            with apart(self.database, what):
                inserted(row, self.database)

    def load_group(self, key: str) -> StoredGroup | None:
        with self._at(f"Loading group {key}"):
            rows = fetched(self._groups.filter(id=key))
        if not rows:
            return None
        [row] = rows
        check(row)
        return StoredGroup(
            id=row.id,
            total=row.total,
            rest=bytes(row.rest),
            is_done=row.is_done,
            is_partial=row.is_partial,
        )

    def page_groups(
        self, *, before: str | None = None, limit: int
    ) -> Page[GroupProgress]:
        done = Count("members", filter=Q(members__has_failed=False))
        rows = self._groups.defer("rest").annotate(done=done)
        with self._at("Listing groups"):
            return page_of(rows, "created_at", mark=before, limit=limit, made=_progress)

    def save_member(self, key: str, member: int, value: bytes) -> bool:
        return self._save_member(key, member, value=value, has_failed=False)

    def save_failed_member(self, key: str, member: int, value: bytes) -> bool:
        return self._save_member(key, member, value=value, has_failed=True)

    def _save_member(self, key: str, member: int, **values: Any) -> bool:
        row = self._members.model(group_id=key, place=member, **values)
        with self._at(f"Saving member {member} of group {key}"):
            group = self._open(key)
            if group is None:
                return False  # pruned, or done by an earlier delivery
            if not inserted(row, self.database):
                failed = self._members.filter(group_id=key, place=member)
                failed.filter(has_failed=True).update(**values)
            total, is_partial, is_idle = group
            if is_idle:  # seldom, so that members don't wait for one another
                self._groups.filter(id=key).update(touched_at=now())
            if type(total) is not int or not 0 < total < MOST:
                return True  # it can't be read, which is for those who load it
            if values["has_failed"] and not is_partial:
                return False
            return self._have_ended(key, neighbours(member, total), bool(is_partial))

    def _open(self, key: str) -> tuple[Any, Any, Any] | None:
        """The size of a group, whether it is partial, and whether nothing has happened
        in it for a while; None if it is gone or done."""
        made = _open_group(self.database, clock.offset())
        unread = (None, None, None)
        found: Any = converted(
            lambda: made.first(self.database, {_KEY: key}), lambda: unread
        )
        return found  # type: ignore[no-any-return]

    def _have_ended(self, key: str, places: list[int], is_partial: bool) -> bool:
        """Whether these members have values, or failures that count."""
        if not places:
            return True
        made = _ended(self.database, len(places), is_partial)
        given = dict(zip(_PLACES, places, strict=False))
        found = made.first(self.database, {_KEY: key, **given})
        return found == (len(places),)

    def count_members(self, key: str, *, failed: bool = False) -> int:
        with self._at(f"Counting the members of group {key}"):
            return self._members.filter(group_id=key, has_failed=failed).count()

    def load_members(self, key: str) -> list[StoredMember]:
        return self._loaded(self._members.filter(group_id=key), key)

    def load_failed_members(self, key: str) -> list[StoredMember]:
        return self._loaded(self._members.filter(group_id=key, has_failed=True), key)

    def _loaded(self, rows: QuerySet[WorkflowMember], key: str) -> list[StoredMember]:
        with self._at(f"Loading the members of group {key}"):
            found: list[Any] = fetched(rows.order_by("place"))
        for row in found:
            check(row)
        return [
            StoredMember(
                place=row.place, value=bytes(row.value), has_failed=row.has_failed
            )
            for row in found
        ]

    def finish_group(self, key: str) -> None:
        what = f"Finishing group {key}"
        with self._at(what), transaction.atomic(using=self.database):
            self._groups.filter(id=key).update(is_done=True, touched_at=now())
            self._members.filter(group_id=key).delete()

    def prune_groups(self, older_than: timedelta, limit: int) -> int:
        with self._at("Pruning groups"):
            old = self._groups.filter(touched_at__lt=now() - older_than)
            keys = list(old.values_list("pk", flat=True)[:limit])
            return delete_by_key(self._groups, keys)


def _progress(row: Any) -> GroupProgress:
    error = mend(row)
    return GroupProgress(
        id=row.id,
        total=row.total,
        done=row.total if row.is_done else row.done,
        is_done=row.is_done,
        created_at=aware(row.created_at, row),
        error=error,
    )


# Each member of each group asks these.

_KEY = "the key"  # stands for it in the statement
_PLACES = range(MOST, MOST + MOST_NEIGHBOURS)  # stand for those of members


@lru_cache(maxsize=64)
def _open_group(alias: str, offset: float) -> Statement:
    """The SELECT of a group. It differs by how far a test has moved the time."""
    from cloudtask.models import WorkflowGroup

    is_idle = Q(touched_at__lt=now() - A_WHILE)
    rows = WorkflowGroup.objects.using(alias).filter(id=_KEY, is_done=False)
    return selecting(
        rows.annotate(is_idle=is_idle).values_list("total", "is_partial", "is_idle")
    )


@lru_cache(maxsize=64)
def _ended(alias: str, places: int, is_partial: bool) -> Statement:
    """The SELECT of the number of these members that have ended."""
    from cloudtask.models import WorkflowMember

    rows = WorkflowMember.objects.using(alias)
    rows = rows.filter(group_id=_KEY, place__in=_PLACES[:places])
    if not is_partial:
        rows = rows.filter(has_failed=False)
    return selecting(
        rows.order_by().values("group_id").annotate(n=Count("*")).values_list("n")
    )
