"""Keeps groups in Datastore: an entity for each group, and one for each value."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cloudtask.stores.datastore import blobs, paging
from cloudtask.stores.datastore.access import (
    LOOKUPS,
    MUTATIONS,
    Access,
    Path,
    Row,
    Try,
    in_groups,
)
from cloudtask.stores.datastore.blobs import Blob
from cloudtask.stores.datastore.entities import moment
from cloudtask.stores.datastore.prefixes import names_beginning
from cloudtask.stores.groups import (
    GroupProgress,
    GroupStore,
    StoredGroup,
    StoredMember,
)
from cloudtask.stores.pages import Page

GROUP = "CloudtaskGroup"
MEMBER = "CloudtaskGroupMember"
FAILED = "CloudtaskGroupFailure"  # of a member that has no value
A_WHILE = timedelta(hours=1)
LARGE = 500_000  # bytes of a rest that lie in the entity of the group


class DatastoreGroups(Access, GroupStore):
    """The part of DatastoreStore that keeps groups."""

    def create_group(self, group: StoredGroup, *, joins: str | None = None) -> None:
        what, path, now = f"Saving group {group.id}", (GROUP, group.id), self.now()
        blob = Blob.of(group.rest, inline=LARGE)
        last = blobs.save(self, what, path, blob, group.rest)
        values = {**blob.values, "total": group.total, "is_done": False}
        values |= {"created_at": now, "touched_at": now}
        values["is_partial"] = group.is_partial
        values["at"] = paging.placed("", now, group.id)
        row = Row(path, values, ("at", "touched_at"))

        def work(attempt: Try) -> None:
            if attempt.get(path) is None:
                attempt.put(row, *last)

        self.transact(what, work)

    def load_group(self, key: str) -> StoredGroup | None:
        what = f"Loading group {key}"
        [row] = self.get(what, (GROUP, key))
        if row is None:
            return None
        row.check()
        return StoredGroup(
            id=key,
            total=row.values["total"],
            rest=blobs.load(self, what, row) or b"",
            is_done=row.values["is_done"],
            is_partial=row.values["is_partial"],
        )

    def page_groups(
        self, *, before: str | None = None, limit: int
    ) -> Page[GroupProgress]:
        what, filters = "Listing groups", paging.bounds("at", "", before=before)
        found = paging.page_along(
            self, what, GROUP, "at", filters, wanted=lambda row: True, limit=limit
        )
        return paging.paged(found, self._progress)

    def _progress(self, row: Row) -> GroupProgress:
        key, values = row.path[-1], row.values
        done = values["total"] if values["is_done"] else self.count_members(key)
        return GroupProgress(
            id=key,
            total=values["total"],
            done=done,
            is_done=values["is_done"],
            created_at=moment(values["created_at"]),
            error=row.why,
        )

    def save_member(self, key: str, member: int, value: bytes) -> bool:
        return self._save_member(key, member, value, has_failed=False)

    def save_failed_member(self, key: str, member: int, value: bytes) -> bool:
        return self._save_member(key, member, value, has_failed=True)

    def _save_member(
        self, key: str, member: int, value: bytes, *, has_failed: bool
    ) -> bool:
        path, now = _member_path(MEMBER, key, member), self.now()
        failure = _member_path(FAILED, key, member)

        def work(attempt: Try) -> Row | None:
            group, before, failed = attempt.get_all((GROUP, key), path, failure)
            if group is None or group.values["is_done"]:
                return None
            if before is None:
                kept = failure if has_failed else path
                attempt.put(Row(kept, {"value": value}))
                if failed is not None and not has_failed:
                    attempt.delete(failure)
                # Seldom, so that members don't wait for one another.
                if moment(group.values["touched_at"]) < now - A_WHILE:
                    touched = {**group.values, "touched_at": now}
                    attempt.put(replace(group, values=touched))
            return group

        what = f"Saving member {member} of group {key}"
        group = self.transact(what, work)
        if group is None or group.why:  # others load it, and tell what can't be read
            return group is not None
        return self._have_ended(group)

    def _have_ended(self, group: Row) -> bool:
        """Whether all members have values, or failures that count.

        A count reads an index. To look at neighbours would read their values.
        """
        key = group.path[-1]
        missing = group.values["total"] - self.count_members(key)
        if missing > 0 and group.values["is_partial"]:
            missing -= self.count_members(key, failed=True)
        return bool(missing <= 0)

    def count_members(self, key: str, *, failed: bool = False) -> int:
        what = f"Counting the members of group {key}"
        kind = FAILED if failed else MEMBER
        return self.count(what, kind, names_beginning(kind, _prefix(key)))

    def load_members(self, key: str) -> list[StoredMember]:
        found = self._loaded(MEMBER, key) + self.load_failed_members(key)
        return sorted(found, key=lambda one: one.place)

    def load_failed_members(self, key: str) -> list[StoredMember]:
        return self._loaded(FAILED, key)

    def _loaded(self, kind: str, key: str) -> list[StoredMember]:
        what = f"Loading the members of group {key}"
        filters = names_beginning(kind, _prefix(key))
        rows = self.query(what, kind, filters, order="__key__")
        for row in rows:
            row.check()
        return [
            StoredMember(
                place=int(row.path[-1].rpartition(":")[2]),
                value=row.values["value"],
                has_failed=kind == FAILED,
            )
            for row in rows
        ]

    def finish_group(self, key: str) -> None:
        what, path, now = f"Finishing group {key}", (GROUP, key), self.now()

        def work(attempt: Try) -> None:
            row = attempt.get(path)
            if row is not None:
                values = {**row.values, "is_done": True, "touched_at": now}
                attempt.put(replace(row, values=values))

        self.transact(what, work)
        self._delete_members(key)

    def prune_groups(self, older_than: timedelta, limit: int) -> int:
        what = "Pruning groups"
        old = [("touched_at", "<", self.now() - older_than)]
        rows = self.query(what, GROUP, old, projection=["__key__"], limit=limit)
        for row in rows:
            self._delete_members(row.path[-1])
            whole = self.get(what, row.path)[0]
            self.delete(what, [row.path, *blobs.paths(whole)])
        return len(rows)

    def _delete_members(self, key: str) -> None:
        what = f"Deleting the members of group {key}"
        for kind in (MEMBER, FAILED):
            filters = names_beginning(kind, _prefix(key))
            while rows := self.query(
                what, kind, filters, projection=["__key__"], limit=LOOKUPS
            ):
                for some in in_groups([row.path for row in rows], MUTATIONS):
                    self.delete(what, some)


def _prefix(key: str) -> str:
    return f"{key}:"


def _member_path(kind: str, key: str, member: int) -> Path:
    return (kind, f"{_prefix(key)}{member:06d}")
