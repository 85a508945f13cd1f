"""The contract of every store for schedules. A test module makes a subclass and the
fixture `store`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from cloudtask.stores import Store
from cloudtask.stores.schedules import StoredSchedule
from tests.support import clock

A_DAY = timedelta(days=1)
AN_HOUR = timedelta(hours=1)


def opened(store: Store, key: str = "k") -> StoredSchedule:
    return store.open_schedule(key, task="app.t", schedule="every hour", enabled=True)


class SchedulesContract:
    def test_the_past_of_a_new_schedule_is_over(self, store: Store) -> None:
        found = opened(store)

        assert abs(found.now - found.last_at) < timedelta(minutes=1)
        assert (found.key, found.task, found.schedule) == ("k", "app.t", "every hour")
        assert (found.enabled, found.missed, found.skipped) == (True, 0, 0)
        assert found.enqueued_at is None

    def test_a_schedule_that_exists_stays(self, store: Store) -> None:
        before = opened(store)
        after = store.open_schedule("k", task="b", schedule="other", enabled=False)

        assert replace(after, now=before.now) == before

    def test_only_one_of_two_moves_that_saw_the_same_is_made(
        self, store: Store
    ) -> None:
        seen = opened(store)
        first, second = seen.now + AN_HOUR, seen.now + 2 * AN_HOUR

        assert store.move_schedule(seen, first, missed=3, is_enqueued=True)
        assert not store.move_schedule(seen, second, missed=5)

        found = store.load_schedules(["k", "other"])
        assert [*found] == ["k"]
        assert found["k"].last_at == first
        assert found["k"].missed == 3
        assert found["k"].enqueued_at is not None

    def test_a_move_changes_what_it_names_only(self, store: Store) -> None:
        seen = opened(store)
        assert store.move_schedule(seen, seen.now, schedule="daily")
        seen = opened(store)
        assert store.move_schedule(seen, seen.now, enabled=False, missed=2)
        seen = opened(store)
        assert store.move_schedule(seen, seen.now, missed=2)

        found = opened(store)
        assert (found.schedule, found.enabled, found.missed) == ("daily", False, 4)

    def test_a_row_that_does_not_exist_can_not_be_moved(self, store: Store) -> None:
        seen = opened(store)
        assert not store.move_schedule(replace(seen, key="none"), seen.now)

    def test_it_tells_the_time_since_the_last_tick(self, store: Store) -> None:
        assert store.since_tick() is None
        opened(store, "a")
        opened(store, "b")
        with clock.ahead(3600.0):
            silence = store.since_tick()
            store.note_tick("a")
            again = store.since_tick()

        assert silence is not None
        assert AN_HOUR <= silence < AN_HOUR + timedelta(minutes=1)
        assert again is not None
        assert again < timedelta(minutes=1)

    def test_one_call_at_a_time_has_a_schedule(self, store: Store) -> None:
        opened(store)
        opened(store, "other")

        assert store.begin_occurrence("k", "one", AN_HOUR)
        assert store.begin_occurrence("k", "one", AN_HOUR)
        assert not store.begin_occurrence("k", "two", AN_HOUR)
        assert store.begin_occurrence("other", "two", AN_HOUR)
        store.end_occurrence("k", "two")  # it is not its own
        assert not store.begin_occurrence("k", "two", AN_HOUR)
        store.end_occurrence("k", "one")
        assert store.begin_occurrence("k", "three", AN_HOUR)
        assert opened(store).skipped == 2

    def test_a_call_that_never_ends_loses_its_schedule(self, store: Store) -> None:
        opened(store)
        assert store.begin_occurrence("k", "one", AN_HOUR)
        with clock.ahead(3000.0):
            assert store.begin_occurrence("k", "one", AN_HOUR)  # another attempt
        with clock.ahead(3700.0):
            assert not store.begin_occurrence("k", "two", AN_HOUR)
        with clock.ahead(7000.0):
            assert store.begin_occurrence("k", "two", AN_HOUR)

    def test_a_schedule_without_a_row_gets_one(self, store: Store) -> None:
        store.end_occurrence("k", "one")
        store.note_tick("k")
        assert store.load_schedules(["k"]) == {}
        assert store.begin_occurrence("k", "one", AN_HOUR)
        assert not store.begin_occurrence("k", "two", AN_HOUR)

    def test_schedules_that_no_tick_looks_at_are_pruned_up_to_a_limit(
        self, store: Store
    ) -> None:
        for key in "abcd":
            opened(store, key)
        with clock.ahead(A_DAY.total_seconds() + 60):
            store.note_tick("a")
            assert store.prune_schedules(A_DAY, 2) == 2
            assert store.prune_schedules(A_DAY, 2) == 1
        assert [*store.load_schedules("abcd")] == ["a"]
