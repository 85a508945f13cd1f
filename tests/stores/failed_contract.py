"""The contract of every store for failed tasks. A test module makes a subclass and the
fixture `store`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudtask.stores import FailedCall, Store
from tests.support import clock

A_DAY = timedelta(days=1)


def failed(key: str = "k", **values: Any) -> FailedCall:
    call = FailedCall(
        key=key,
        task="app.tasks.mail",
        queue="mail",
        name="name",
        envelope=b"\x00\xffenvelope",
        arguments="user_id=7",
        error="ValueError: no",
        traceback="Traceback ...",
        attempts=3,
        enqueued_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    return replace(call, **values)


class FailedContract:
    def test_a_failed_task_is_loaded_as_it_was_saved(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(minutes=5)
        store.save_failed(failed())

        loaded = store.load_failed("k")

        assert loaded is not None
        assert loaded.failed_at is not None
        assert before < loaded.failed_at < datetime.now(UTC) + timedelta(minutes=5)
        assert replace(loaded, failed_at=None) == failed()

    @pytest.mark.parametrize(
        "text",
        ["", "\u017elu\u0165ou\u010dk\u00fd \U0001f600", "x" * 20_000, "'\"\\%s%%"],
    )
    def test_texts_come_back(self, store: Store, text: str) -> None:
        given = failed(arguments=text, error=text or "?", traceback=text)
        store.save_failed(given)

        loaded = store.load_failed("k")

        assert loaded is not None
        assert replace(loaded, failed_at=None) == given

    def test_an_envelope_may_be_as_large_as_a_task(self, store: Store) -> None:
        envelope = bytes(range(256)) * 3_900
        store.save_failed(failed(envelope=envelope))

        loaded = store.load_failed("k")

        assert loaded is not None
        assert loaded.envelope == envelope

    def test_saving_again_replaces(self, store: Store) -> None:
        store.save_failed(failed())
        store.save_failed(failed(attempts=9, error="other"))

        [listed] = store.list_failed(task=None, limit=10)

        assert (listed.attempts, listed.error) == (9, "other")

    def test_what_is_not_there_is_none(self, store: Store) -> None:
        assert store.load_failed("k") is None
        assert store.delete_failed("k") is False

    def test_what_is_deleted_is_gone(self, store: Store) -> None:
        store.save_failed(failed())

        assert store.delete_failed("k") is True
        assert store.load_failed("k") is None

    def test_the_newest_are_listed_first_without_envelopes(self, store: Store) -> None:
        for minute, key in enumerate("abc"):
            with clock.ahead(minute * 60.0):
                store.save_failed(failed(key))

        listed = store.list_failed(task=None, limit=2)

        assert [one.key for one in listed] == ["c", "b"]
        assert [one.envelope for one in listed] == [b"", b""]

    def test_those_of_a_task_are_listed(self, store: Store) -> None:
        store.save_failed(failed("a"))
        store.save_failed(failed("b", task="app.tasks.other"))

        listed = store.list_failed(task="app.tasks.other", limit=10)

        assert [one.key for one in listed] == ["b"]

    def test_the_old_are_told_up_to_a_limit(self, store: Store) -> None:
        for key in "abc":
            store.save_failed(failed(key))
        assert store.old_failed(A_DAY, 10) == []

        with clock.ahead(A_DAY.total_seconds() + 60):
            store.save_failed(failed("c"))

            assert sorted(store.old_failed(A_DAY, 10)) == ["a", "b"]
            assert len(store.old_failed(A_DAY, 1)) == 1

    def test_starts_are_counted_by_call(self, store: Store) -> None:
        assert [store.note_start("k") for _ in range(3)] == [1, 2, 3]
        assert store.note_start("other") == 1

    def test_starts_are_forgotten_when_they_are_old(self, store: Store) -> None:
        store.note_start("k")
        with clock.ahead(A_DAY.total_seconds()):
            store.note_start("new")
            assert store.prune_starts(A_DAY / 2, limit=9) == 1
            assert store.note_start("new") == 2
            assert store.note_start("k") == 1
