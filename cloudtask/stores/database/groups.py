"""Keeps groups in the tables of this app."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from cloudtask.clock import database_now as now
from cloudtask.stores.database.fitting import check, fetched, mend
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import aware
from cloudtask.stores.groups import (
    GroupProgress,
    GroupStore,
    StoredGroup,
    StoredMember,
)
from cloudtask.stores.pages import Page
from cloudtask.stores.transactions import apart, delete_by_key, translated

A_WHILE = timedelta(hours=1)

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
                self._groups.bulk_create([row], ignore_conflicts=True)
                return
            with apart(self.database, what):
                self._groups.bulk_create([row], ignore_conflicts=True)

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

    def save_member(self, key: str, member: int, value: bytes) -> None:
        self._save_member(key, member, value=value, has_failed=False)

    def save_failed_member(self, key: str, member: int, value: bytes) -> None:
        self._save_member(key, member, value=value, has_failed=True)

    def _save_member(self, key: str, member: int, **values: Any) -> None:
        what = f"Saving member {member} of group {key}"
        row = self._members.model(group_id=key, place=member, **values)
        with self._at(what), transaction.atomic(using=self.database):
            group = self._groups.filter(id=key, is_done=False)
            if not group.exists():
                return  # pruned, or done by an earlier delivery
            self._members.bulk_create([row], ignore_conflicts=True)
            failed = self._members.filter(group_id=key, place=member, has_failed=True)
            failed.update(**values)
            # Seldom, so that members don't wait for one another.
            group.filter(touched_at__lt=now() - A_WHILE).update(touched_at=now())

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
