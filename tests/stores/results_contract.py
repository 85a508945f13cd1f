"""The contract of every store for results. A test module makes a subclass and the
fixture `store`."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudtask.stores import Store
from cloudtask.stores.results import ResultState, StoredResult
from tests.support import clock

A_DAY = timedelta(days=1)
EXPIRED = A_DAY.total_seconds() + 60


def result(key: str = "k", **values: Any) -> StoredResult:
    made = StoredResult(
        id=key,
        task="app.tasks.sum",
        queue="mail",
        state=ResultState.SUCCEEDED,
        value=b"\x00\xffsealed",
        enqueued_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    return replace(made, **values)


def failure(**values: Any) -> StoredResult:
    texts = {"error": "ValueError: no", "traceback": "Traceback ..."}
    return result(state=ResultState.FAILED, value=None, **texts | values)


def loaded(store: Store, key: str = "k") -> StoredResult:
    """The stored result, without the times that the store adds."""
    found = store.load_result(key)
    assert found is not None
    return replace(found, finished_at=None, expires_at=None)


class ResultsContract:
    def test_a_result_is_loaded_as_it_was_saved(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(minutes=5)
        store.save_result(result(), A_DAY)

        found = store.load_result("k")

        assert found is not None
        assert found.finished_at is not None
        assert found.expires_at is not None
        assert before < found.finished_at < datetime.now(UTC) + timedelta(minutes=5)
        assert found.expires_at - found.finished_at == A_DAY
        assert loaded(store) == result()

    def test_results_are_listed_in_brief_the_latest_enqueued_first(
        self, store: Store
    ) -> None:
        for number in range(5):
            at = datetime(2026, 1, 2, 3, number, tzinfo=UTC)
            task = "app.tasks.sum" if number % 2 else "app.tasks.other"
            store.save_result(result(f"k{number}", task=task, enqueued_at=at), A_DAY)
        late = datetime(2026, 1, 3, tzinfo=UTC)
        store.save_result(failure(id="f", enqueued_at=late), A_DAY)

        first = store.page_results(limit=4)
        second = store.page_results(before=first.next, limit=4)
        of_task = store.page_results(task="app.tasks.other", limit=9)
        failed = store.page_results(states=[ResultState.FAILED], limit=9)

        assert [one.id for one in first.items] == ["f", "k4", "k3", "k2"]
        assert [one.id for one in second.items] == ["k1", "k0"]
        assert second.next is None
        assert [one.id for one in of_task.items] == ["k4", "k2", "k0"]
        assert [one.id for one in failed.items] == ["f"]
        assert {(o.value, o.error, o.traceback) for o in first.items} == {
            (None, "", "")
        }
        with pytest.raises(ValueError, match="mark"):
            store.page_results(before="nonsense", limit=1)

    @pytest.mark.parametrize("size", [0, 1, 16 * 1024, 600_000, 1_000_000])
    def test_values_of_any_size_come_back(self, store: Store, size: int) -> None:
        value = os.urandom(size)
        store.save_result(result(value=value), A_DAY)

        assert loaded(store).value == value

    def test_an_unknown_result_is_none(self, store: Store) -> None:
        assert store.load_result("k") is None

    def test_a_failure_is_loaded_with_its_texts(self, store: Store) -> None:
        store.save_result(failure(), A_DAY)

        assert loaded(store) == failure()

    def test_the_first_success_stays(self, store: Store) -> None:
        store.save_result(result(value=b"first"), A_DAY)
        store.save_result(result(value=b"second"), A_DAY)
        store.save_result(failure(), A_DAY)

        assert loaded(store) == result(value=b"first")

    def test_a_success_replaces_a_failure(self, store: Store) -> None:
        store.save_result(failure(), A_DAY)
        store.save_result(result(), A_DAY)

        assert loaded(store) == result()

    def test_the_last_failure_stays(self, store: Store) -> None:
        store.save_result(failure(), A_DAY)
        store.save_result(failure(error="KeyError: 'x'"), A_DAY)

        assert loaded(store).error == "KeyError: 'x'"

    def test_an_expired_result_has_no_value(self, store: Store) -> None:
        store.save_result(result(), A_DAY)
        with clock.ahead(EXPIRED):
            assert loaded(store) == result(value=None)

    def test_an_expired_failure_has_no_text(self, store: Store) -> None:
        store.save_result(failure(), A_DAY)
        with clock.ahead(EXPIRED):
            assert loaded(store) == failure(error="", traceback="")

    def test_pruning_removes_values_first_and_records_later(self, store: Store) -> None:
        store.save_result(result("old", value=os.urandom(900_000)), A_DAY)
        with clock.ahead(EXPIRED):
            store.save_result(result("new"), A_DAY)
            assert store.prune_results(A_DAY, limit=9) == 1
            assert store.prune_results(A_DAY, limit=9) == 0
            assert store.load_result("old") is not None
        with clock.ahead(2 * EXPIRED):
            store.prune_results(A_DAY, limit=9)
            assert store.load_result("old") is None
            assert store.load_result("new") is not None
        assert loaded(store, "new") == result("new", value=None)

    def test_pruning_stops_at_its_limit(self, store: Store) -> None:
        for key in "abc":
            store.save_result(result(key), A_DAY)
        with clock.ahead(EXPIRED):
            assert store.prune_results(A_DAY, limit=2) == 2
            assert store.prune_results(A_DAY, limit=2) == 1
