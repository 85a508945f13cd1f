"""The contract of every store for marks of calls. A test module makes a subclass and
the fixture `store`."""

from __future__ import annotations

from datetime import timedelta

from cloudtask.stores import Store
from tests.support import clock

A_DAY = timedelta(days=1)


class MarksContract:
    def test_a_call_that_was_cancelled_first_does_not_begin(self, store: Store) -> None:
        assert store.cancel_call("k") is False
        assert store.begin_call("k") is False
        assert store.cancel_call("k") is False
        assert store.is_cancelled("k")
        assert not store.is_begun("k")

    def test_a_call_that_began_first_is_known_to_have_begun(self, store: Store) -> None:
        assert store.begin_call("k") is True
        assert store.begin_call("k") is True
        assert not store.is_cancelled("k")
        assert store.cancel_call("k") is True
        assert store.begin_call("k") is False
        assert store.cancel_call("k") is True
        assert store.is_begun("k")
        assert not store.is_begun("other")
        assert not store.is_cancelled("other")

    def test_a_call_that_does_not_mark_its_begin_may_have_begun(
        self, store: Store
    ) -> None:
        store.cancel_call("k", may_have_begun=True)
        assert store.is_begun("k")
        assert store.cancel_call("k", may_have_begun=False) is True
        store.cancel_call("exact")
        assert store.cancel_call("exact", may_have_begun=True) is False

    def test_a_step_only_reads_unless_it_marks(self, store: Store) -> None:
        assert store.begin_step("k", is_marked=False) is True
        assert store.cancel_call("k") is False
        assert store.begin_step("k", is_marked=False) is False
        assert store.begin_step("k", is_marked=True) is False

    def test_the_first_step_marks_that_its_chain_has_begun(self, store: Store) -> None:
        assert store.begin_step("k", is_marked=True) is True
        assert store.begin_step("k", is_marked=True) is True
        assert store.cancel_call("k") is True
        assert store.begin_step("k", is_marked=True) is False

    def test_old_marks_are_pruned_up_to_a_limit(self, store: Store) -> None:
        for key in "abc":
            store.begin_call(key)
        assert store.prune_marks(A_DAY, 10) == 0

        with clock.ahead(A_DAY.total_seconds() + 60):
            assert store.prune_marks(A_DAY, 2) == 2
            assert store.prune_marks(A_DAY, 2) == 1
