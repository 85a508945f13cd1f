"""The contract of every store for groups. A test module makes a subclass and the
fixture `store`."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from cloudtask.stores import Store
from cloudtask.stores.groups import StoredGroup
from tests.support import clock

A_DAY = timedelta(days=1)
LATER = A_DAY.total_seconds() + 60
GROUP = StoredGroup(id="g", total=3, rest=b"\x00sealed")


def values(store: Store) -> list[bytes]:
    return [one.value for one in store.load_members("g")]


class GroupsContract:
    def test_a_group_is_loaded_as_it_was_saved(self, store: Store) -> None:
        store.create_group(GROUP)

        assert store.load_group("g") == GROUP
        assert store.load_group("other") is None

    @pytest.mark.parametrize("size", [0, 500_001, 3_000_000])
    def test_what_follows_may_have_any_size(self, store: Store, size: int) -> None:
        group = replace(GROUP, rest=os.urandom(size))
        store.create_group(group)

        assert store.load_group("g") == group

    def test_a_group_that_exists_stays(self, store: Store) -> None:
        store.create_group(GROUP)
        store.create_group(replace(GROUP, total=9, rest=b"other"))

        assert store.load_group("g") == GROUP

    def test_groups_are_listed_with_the_number_of_values_the_newest_first(
        self, store: Store
    ) -> None:
        for number in range(3):
            store.create_group(replace(GROUP, id=f"g{number}"))
            store.save_member(f"g{number}", 0, b"value")
        store.save_member("g1", 1, b"value")
        store.finish_group("g0")

        first = store.page_groups(limit=2)
        second = store.page_groups(before=first.next, limit=2)
        found = {one.id: one for one in (*first.items, *second.items)}

        assert [one.id for one in (*first.items, *second.items)] == ["g2", "g1", "g0"]
        assert second.next is None
        assert (found["g1"].done, found["g1"].total, found["g1"].is_done) == (
            *(2, 3),
            False,
        )
        assert (found["g0"].done, found["g0"].is_done) == (3, True)
        with pytest.raises(ValueError, match="mark"):
            store.page_groups(before="nonsense", limit=1)

    def test_values_are_loaded_in_the_order_of_their_members(
        self, store: Store
    ) -> None:
        store.create_group(replace(GROUP, total=12))
        for member in (11, 2, 10, 0, 9, 1, *range(3, 9)):
            store.save_member("g", member, f"value {member}".encode())

        assert store.count_members("g") == 12
        assert values(store) == [f"value {n}".encode() for n in range(12)]
        assert [one.place for one in store.load_members("g")] == [*range(12)]

    def test_the_first_value_of_a_member_stays(self, store: Store) -> None:
        store.create_group(GROUP)
        store.save_member("g", 1, b"first")
        store.save_member("g", 1, b"second")

        assert store.count_members("g") == 1
        assert values(store) == [b"first"]

    def test_a_value_takes_the_place_of_a_failure_and_never_the_reverse(
        self, store: Store
    ) -> None:
        store.create_group(replace(GROUP, is_partial=True))
        store.save_failed_member("g", 1, b"failed")
        store.save_failed_member("g", 1, b"failed again")
        store.save_failed_member("g", 2, b"failed")
        store.save_member("g", 0, b"value")
        store.save_failed_member("g", 0, b"late")

        assert store.count_members("g") == 1
        assert store.count_members("g", failed=True) == 2
        assert values(store) == [b"value", b"failed again", b"failed"]
        assert [one.place for one in store.load_failed_members("g")] == [1, 2]

        store.save_member("g", 1, b"mended")
        assert store.count_members("g") == 2
        assert values(store) == [b"value", b"mended", b"failed"]
        assert [one.has_failed for one in store.load_members("g")] == [
            *(False, False),
            True,
        ]
        assert store.load_group("g") == replace(GROUP, is_partial=True)

        store.finish_group("g")
        assert store.load_members("g") == []

    @pytest.mark.parametrize("total", [1, 2, 3, 8, 200])
    def test_only_the_member_that_ends_last_finds_that_all_others_have(
        self, store: Store, total: int
    ) -> None:
        store.create_group(replace(GROUP, total=total))
        found = [store.save_member("g", member, b"value") for member in range(total)]

        assert found == [*([False] * (total - 1)), True]
        assert store.save_member("g", 0, b"value")  # a crash came before it decided

    def test_a_failure_ends_a_member_of_a_partial_group_only(
        self, store: Store
    ) -> None:
        for key, is_partial in (("g", False), ("partial", True)):
            group = replace(GROUP, id=key, total=2, is_partial=is_partial)
            store.create_group(group)

            assert not store.save_failed_member(key, 1, b"failed")
            assert store.save_member(key, 0, b"value") is is_partial
            assert store.save_failed_member(key, 1, b"failed again") is is_partial

        assert store.save_member("g", 1, b"mended")

    def test_a_group_that_is_gone_or_done_is_not_complete(self, store: Store) -> None:
        store.create_group(replace(GROUP, total=1))
        store.finish_group("g")

        assert not store.save_member("g", 0, b"late")
        assert not store.save_member("other", 0, b"value")

    def test_most_members_of_a_large_group_need_no_count(self, store: Store) -> None:
        order = list(range(200))
        random.Random(1).shuffle(order)
        store.create_group(replace(GROUP, total=200))

        counts = sum(store.save_member("g", member, b"value") for member in order)
        assert 1 <= counts < 50

    def test_a_value_may_take_a_million_bytes(self, store: Store) -> None:
        value = os.urandom(1_000_100)
        store.create_group(GROUP)
        store.save_member("g", 0, value)

        assert values(store) == [value]

    def test_groups_are_kept_apart(self, store: Store) -> None:
        store.create_group(GROUP)
        store.create_group(replace(GROUP, id="gg"))
        store.save_member("gg", 0, b"x")

        assert store.count_members("g") == 0

    def test_a_finished_group_takes_no_values(self, store: Store) -> None:
        store.create_group(GROUP)
        store.save_member("g", 0, b"x")
        store.finish_group("g")
        store.finish_group("g")
        store.save_member("g", 1, b"late")

        assert store.load_group("g") == replace(GROUP, is_done=True)
        assert store.count_members("g") == 0

    def test_a_value_for_a_group_that_is_gone_is_dropped(self, store: Store) -> None:
        store.save_member("g", 0, b"x")

        assert store.count_members("g") == 0

    def test_a_group_is_pruned_when_nothing_has_happened_for_long(
        self, store: Store
    ) -> None:
        for key in ("idle", "busy"):
            store.create_group(replace(GROUP, id=key))
            store.save_member(key, 0, b"x")
        with clock.ahead(LATER):
            store.save_member("busy", 1, b"y")

            assert store.prune_groups(A_DAY, limit=9) == 1
            assert store.load_group("idle") is None
            assert store.load_group("busy") is not None
        assert store.count_members("idle") == 0
        assert store.count_members("busy") == 2
