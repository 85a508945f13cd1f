"""The contract of every store for payloads.

A test module makes a subclass and the fixture `store`.
"""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from cloudtask.exceptions import PayloadLost
from cloudtask.stores import AlreadyDone, Store
from tests.support import clock

MEBIBYTE = 1024 * 1024
A_DAY = timedelta(days=1)
LATER = A_DAY.total_seconds() + 60


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class PayloadsContract:
    @pytest.mark.parametrize(
        "size",
        [0, 1, 1000, 512 * 1024, 512 * 1024 + 1, 3 * MEBIBYTE, 20 * MEBIBYTE],
    )
    def test_a_payload_is_loaded_as_it_was_saved(self, store: Store, size: int) -> None:
        data = noise(size)
        store.save_payload("k", data)

        assert store.load_payload("k") == data

    def test_32_mebibytes_are_loaded_as_they_were_saved(self, store: Store) -> None:
        data = noise(32 * MEBIBYTE)
        store.save_payload("k", data)

        assert store.load_payload("k") == data

    def test_every_byte_comes_back(self, store: Store) -> None:
        store.save_payload("k", bytes(range(256)) * 3)

        assert store.load_payload("k") == bytes(range(256)) * 3

    @pytest.mark.parametrize("sizes", [(2_000_000, 10), (10, 2_000_000)])
    def test_a_payload_that_is_saved_again_is_replaced(
        self, store: Store, sizes: tuple[int, int]
    ) -> None:
        for size in sizes:
            store.save_payload("k", noise(size))

        assert store.load_payload("k") == noise(sizes[1])

    def test_payloads_are_kept_apart(self, store: Store) -> None:
        store.save_payload("a", b"1")
        store.save_payload("b", b"2")
        store.delete_payload("a")

        assert store.load_payload("b") == b"2"

    def test_what_was_never_saved_is_lost_and_named(self, store: Store) -> None:
        with pytest.raises(PayloadLost, match="nobody"):
            store.load_payload("nobody")

    def test_what_is_finished_is_remembered_without_data(self, store: Store) -> None:
        store.save_payload("k", noise(2_000_000))
        store.finish_payload("k")
        store.finish_payload("k")

        with pytest.raises(AlreadyDone):
            store.load_payload("k")

    def test_what_is_finished_can_be_saved_again(self, store: Store) -> None:
        store.save_payload("k", b"1")
        store.finish_payload("k")
        store.save_payload("k", b"2")

        assert store.load_payload("k") == b"2"

    def test_what_is_deleted_is_not_remembered(self, store: Store) -> None:
        store.save_payload("k", noise(2_000_000))
        store.finish_payload("k")
        store.delete_payload("k")
        store.delete_payload("k")

        with pytest.raises(PayloadLost):
            store.load_payload("k")

    def test_finishing_what_is_not_there_makes_nothing(self, store: Store) -> None:
        store.finish_payload("k")
        store.touch_payload("k")

        with pytest.raises(PayloadLost):
            store.load_payload("k")

    def test_pruning_removes_what_is_old_finished_or_not(self, store: Store) -> None:
        for key in ("done", "orphan"):
            store.save_payload(key, noise(2_000_000))
        store.finish_payload("done")
        assert store.prune_payloads(A_DAY, 10) == 0

        with clock.ahead(LATER):
            store.save_payload("young", b"1")
            assert store.prune_payloads(A_DAY, 10) == 2

            assert store.load_payload("young") == b"1"
            for key in ("done", "orphan"):
                with pytest.raises(PayloadLost):
                    store.load_payload(key)

    def test_pruning_has_a_limit(self, store: Store) -> None:
        for key in "abc":
            store.save_payload(key, b"1")

        with clock.ahead(LATER):
            assert store.prune_payloads(A_DAY, 2) == 2
            assert store.prune_payloads(A_DAY, 2) == 1
            assert store.prune_payloads(A_DAY, 2) == 0

    @pytest.mark.parametrize("verb", ["touch_payload", "finish_payload"])
    def test_the_age_begins_anew(self, store: Store, verb: str) -> None:
        store.save_payload("k", b"1")
        with clock.ahead(LATER):
            getattr(store, verb)("k")

            assert store.prune_payloads(A_DAY, 10) == 0

    def test_touching_leaves_the_data_alone(self, store: Store) -> None:
        store.save_payload("k", noise(2_000_000))
        store.touch_payload("k")

        assert store.load_payload("k") == noise(2_000_000)
