"""Defines what a store keeps of groups: their members' values, and what follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cloudtask.envelope import Place
from cloudtask.stores.pages import Page

MOST_NEIGHBOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGroup:
    """Calls that run side by side; `rest` is sealed, and follows once all are done.

    A group that `is_partial` is done, too, when its members have ended otherwise.
    """

    id: str
    total: int
    rest: bytes = field(repr=False)
    is_done: bool = False
    is_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMember:
    """The sealed value of a member, or the sealed failure of one that has failed."""

    place: int
    value: bytes = field(repr=False)
    has_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress:
    """A group in a list: `done` of its `total` members have a value. `error` tells of a
    value of its record that can't be read."""

    id: str
    total: int
    done: int
    is_done: bool
    created_at: datetime
    error: str = ""


def neighbours(member: int, total: int) -> list[int]:
    """Some other members of a group: the next one, and others up to half way round.

    The member that ends last finds that all of them have ended. Nearly all others find
    one that has not, so they need not count: the counts of a group whose members each
    count would grow with the square of their number.
    """
    steps = {1, *(total >> shift for shift in range(1, MOST_NEIGHBOURS))}
    return sorted({(member + step) % total for step in steps} - {member})


def member_place(group: str, member: int) -> Place:
    """The place for which the value of a member is sealed."""
    return "group", group, f"member {member}"


def failure_place(group: str, member: int) -> Place:
    """The place for which the failure of a member is sealed."""
    return "group", group, f"failure of member {member}"


class GroupStore(ABC):
    """Groups and the values of their members.

    There is no counter. Each member has one row, whatever is delivered twice.
    """

    @abstractmethod
    def create_group(self, group: StoredGroup, *, joins: str | None = None) -> None:
        """Save `group`; one that exists stays as it is.

        If `joins` is the store's database, the group is saved when the open transaction
        of that database commits. In all other cases it is durable when this returns.
        """

    @abstractmethod
    def load_group(self, key: str) -> StoredGroup | None:
        """The group; raises BadSignature if a value of its record can't be read."""

    @abstractmethod
    def page_groups(
        self, *, before: str | None = None, limit: int
    ) -> Page[GroupProgress]:
        """Groups, newest first, from the mark `before` on; raises ValueError for a
        mark that no store has made."""

    @abstractmethod
    def save_member(self, key: str, member: int, value: bytes) -> bool:
        """Save the sealed value of a member; its first value stays.

        It takes the place of a failure. Returns whether the group may be complete: then
        the caller counts. A store may look at the `neighbours` only. It returns False
        if the group is gone or done. Of members that end at the same time, at least one
        gets True, since each looks when its own value is durable.
        """

    @abstractmethod
    def save_failed_member(self, key: str, member: int, value: bytes) -> bool:
        """Save the sealed failure of a member that has no value; its last one stays.

        Returns whether the group may be complete, as `save_member` does: only a partial
        group is so with a failure.
        """

    @abstractmethod
    def count_members(self, key: str, *, failed: bool = False) -> int:
        """The number of members that have a value, or of those that have failed."""

    @abstractmethod
    def load_members(self, key: str) -> list[StoredMember]:
        """All members that have a value or have failed, in their order; raises
        BadSignature if one of their records can't be read."""

    @abstractmethod
    def load_failed_members(self, key: str) -> list[StoredMember]:
        """The members that have failed, in their order."""

    @abstractmethod
    def finish_group(self, key: str) -> None:
        """Note that what follows is durable, and delete the values."""

    @abstractmethod
    def prune_groups(self, older_than: timedelta, limit: int) -> int:
        """Delete up to `limit` groups in which nothing has happened for longer.

        Returns their number.
        """
