"""The contract of every store for reads page by page, in brief and counted; and for
notes of upkeep. A test module makes a subclass and the fixture `store`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudtask.runs import FailureState, RunState, ShardSums
from cloudtask.stores import Store
from cloudtask.stores.failed import BRIEF, FailedFilter
from cloudtask.stores.pages import Page
from tests.stores.failed_contract import failed
from tests.stores.runs_making import (
    AT_ONCE,
    OTHER,
    RUN,
    create,
    failure,
    finish,
    load,
    move,
    record,
    shards_of,
    start,
    take,
    walked,
)
from tests.support import clock

BAD_MARKS = ["", "x", "0000-01-01 00:00:00|k", "2026-01-02 03:04:05|'; --", "a|b|c"]


def all_pages(read: Callable[[str | None], Page[Any]]) -> list[Any]:
    """The items of all pages, in their order; each page begins where one ended."""
    found: list[Any] = []
    mark = None
    for _ in range(1_000):
        page = read(mark)
        found += page.items
        if (mark := page.next) is None:
            return found
    raise AssertionError("The pages have no end.")


def keys_of(store: Store, limit: int = 2, **wanted: Any) -> list[str]:
    chosen = FailedFilter(**wanted)
    calls = all_pages(lambda mark: store.page_failed(chosen, before=mark, limit=limit))
    return [call.key for call in calls]


def save_some(store: Store) -> None:
    """Four failed calls, a second apart: two groups in two tasks."""
    for second, (key, values) in enumerate(
        {
            "a": {"group": "g1", "kind": "ValueError"},
            "b": {"group": "g2", "kind": "KeyError", "task": "app.tasks.other"},
            "c": {"group": "g1", "kind": "ValueError", "queue": "slow"},
            "d": {"group": "g1", "kind": "ValueError"},
        }.items()
    ):
        with clock.ahead(float(second)):
            store.save_failed(failed(key, **values))


class FailedPagesContract:
    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
    def test_pages_hold_every_failed_call_once(self, store: Store, limit: int) -> None:
        save_some(store)

        assert keys_of(store, limit) == ["d", "c", "b", "a"]

    def test_calls_that_failed_at_one_moment_are_all_listed(self, store: Store) -> None:
        for number in range(7):
            store.save_failed(failed(f"k{number}"))

        assert sorted(keys_of(store)) == [f"k{number}" for number in range(7)]

    def test_a_page_begins_behind_a_call_that_is_gone(self, store: Store) -> None:
        save_some(store)
        page = store.page_failed(limit=2)
        store.delete_failed("c")

        rest = store.page_failed(before=page.next, limit=9)

        assert [call.key for call in rest.items] == ["b", "a"]

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({"task": "app.tasks.other"}, ["b"]),
            ({"kind": "ValueError"}, ["d", "c", "a"]),
            ({"group": "g1"}, ["d", "c", "a"]),
            ({"queue": "slow"}, ["c"]),
            ({"queue": "mail", "group": "g1"}, ["d", "a"]),
            ({"task": "app.tasks.mail", "group": "g2"}, []),
            ({"task": "none"}, []),
        ],
    )
    def test_pages_and_counts_keep_to_a_filter(
        self, store: Store, wanted: dict[str, str], expected: list[str]
    ) -> None:
        save_some(store)

        assert keys_of(store, **wanted) == expected
        assert keys_of(store, 1, **wanted) == expected
        assert store.count_failed(FailedFilter(**wanted)) == len(expected)

    def test_pages_and_counts_keep_to_a_time(self, store: Store) -> None:
        save_some(store)
        with clock.ahead(3600.0):
            store.save_failed(failed("late"))
        now = datetime.fromtimestamp(clock.now(), UTC)
        soon = now + timedelta(minutes=30)

        assert keys_of(store, since=soon) == ["late"]
        assert keys_of(store, until=soon) == ["d", "c", "b", "a"]
        assert keys_of(store, until=soon, group="g2") == ["b"]
        assert store.count_failed(FailedFilter(since=soon)) == 1
        assert store.count_failed(FailedFilter(since=soon, task="none")) == 0
        [late] = store.failed_groups(FailedFilter(since=soon), limit=9)
        assert late.number == 1

    def test_counting_stops(self, store: Store) -> None:
        save_some(store)

        assert store.count_failed() == 4
        assert store.count_failed(most=3) == 3
        assert store.count_failed(FailedFilter(kind="ValueError"), most=2) == 2

    def test_brief_calls_carry_nothing_large(self, store: Store) -> None:
        store.save_failed(failed(error="e" * 9_000, traceback="t" * 9_000))

        [brief] = store.page_failed(limit=9).items

        assert brief.error == "e" * BRIEF
        assert (brief.envelope, brief.arguments, brief.traceback) == (b"", "", "")
        assert (brief.task, brief.queue, brief.attempts) == (
            "app.tasks.mail",
            "mail",
            3,
        )

    def test_groups_come_with_number_times_and_a_sample(self, store: Store) -> None:
        save_some(store)

        first, second = store.failed_groups(limit=9)

        assert (first.group, first.task, first.kind, first.number) == (
            "g1",
            "app.tasks.mail",
            "ValueError",
            3,
        )
        assert (second.group, second.number) == ("g2", 1)
        assert first.error == "ValueError: no"
        assert timedelta(seconds=2) < first.last_at - first.first_at
        assert first.last_at - first.first_at < timedelta(minutes=1)
        assert second.first_at == second.last_at

    def test_groups_keep_to_limit_and_filter(self, store: Store) -> None:
        save_some(store)

        assert [g.group for g in store.failed_groups(limit=1)] == ["g1"]
        by_task = store.failed_groups(FailedFilter(task="app.tasks.other"), limit=9)
        assert [g.group for g in by_task] == ["g2"]
        by_group = store.failed_groups(FailedFilter(group="g2"), limit=9)
        assert [g.group for g in by_group] == ["g2"]
        assert store.failed_groups(FailedFilter(kind="none"), limit=9) == []

    @pytest.mark.parametrize("mark", BAD_MARKS)
    def test_a_mark_that_nobody_made_is_refused(self, store: Store, mark: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  the text is not part of it
            store.page_failed(before=mark, limit=2)

    def test_keys_are_found_by_their_beginning(self, store: Store) -> None:
        for key in ("aa1", "aa2", "ab", "b"):
            store.save_failed(failed(key))

        assert store.find_failed("aa", limit=9) == ["aa1", "aa2"]
        assert store.find_failed("a", limit=2) == ["aa1", "aa2"]
        assert store.find_failed("c", limit=2) == []

    def test_upkeep_is_noted_by_job(self, store: Store) -> None:
        assert store.upkeep() == {}

        store.note_upkeep("relay", "first")
        store.note_upkeep("relay", "3 sent")
        with clock.ahead(120.0):
            store.note_upkeep("prune", "")
            found = store.upkeep()

        assert found["relay"].report == "3 sent"
        assert timedelta(minutes=1) < found["relay"].age < timedelta(minutes=5)
        assert abs(found["prune"].age) < timedelta(minutes=1)
        assert found["prune"].ran_at > found["relay"].ran_at


class RunPagesContract:
    def make(self, store: Store) -> None:
        """Five runs, a second apart."""
        for second, (run_id, state) in enumerate(
            {
                "a" * 32: RunState.RUNNING,
                "b" * 32: RunState.PAUSED,
                "c" * 32: RunState.RUNNING,
                "d" * 32: RunState.FAILED,
                "e" * 32: RunState.RUNNING,
            }.items()
        ):
            with clock.ahead(float(second)):
                create(store, run_id, state, description=b"d" * 100)

    def ids(self, store: Store, limit: int, **wanted: Any) -> str:
        runs = all_pages(
            lambda mark: store.page_runs(before=mark, limit=limit, **wanted)
        )
        return "".join(run.id[0] for run in runs)

    @pytest.mark.parametrize("limit", [1, 2, 5, 9])
    def test_pages_hold_every_run_once(self, store: Store, limit: int) -> None:
        self.make(store)

        assert self.ids(store, limit) == "edcba"

    @pytest.mark.parametrize("limit", [1, 2, 3, 9])
    def test_pages_keep_to_states_and_task(self, store: Store, limit: int) -> None:
        self.make(store)
        states = [RunState.RUNNING, RunState.PAUSED]

        assert self.ids(store, limit, states=states) == "ecba"
        assert self.ids(store, limit, states=[RunState.FAILED]) == "d"
        assert self.ids(store, limit, states=[RunState.FINISHED]) == ""
        assert self.ids(store, limit, states=states, task="app.tasks.walk") == "ecba"
        assert self.ids(store, limit, task="app.tasks.none") == ""

    def test_brief_runs_carry_nothing_sealed(self, store: Store) -> None:
        create(store, description=b"d" * 100, options=b"o", error="why", keep=True)

        [brief] = store.page_runs(limit=9).items

        assert (brief.description, brief.options, brief.rest) == (b"", b"", None)
        assert (brief.error, brief.keep, brief.state) == (
            "why",
            True,
            RunState.WAITING,
        )
        assert brief.created_at == load(store).created_at

    @pytest.mark.parametrize("mark", BAD_MARKS)
    def test_a_mark_that_nobody_made_is_refused(self, store: Store, mark: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  the text is not part of it
            store.page_runs(before=mark, limit=2)

    def test_runs_are_counted_by_state(self, store: Store) -> None:
        self.make(store)
        wanted = [RunState.RUNNING, RunState.PAUSED, RunState.FINISHED]

        assert store.count_iterations(wanted).runs == {
            RunState.RUNNING: 3,
            RunState.PAUSED: 1,
            RunState.FINISHED: 0,
        }

    def test_rows_that_were_given_up_are_counted_over_all_runs(
        self, store: Store
    ) -> None:
        assert store.count_iterations([RunState.PAUSED]).failed_rows == 0
        for run_id in (RUN, OTHER):
            start(store, run_id=run_id)
            for key, state in (
                ("1", FailureState.FAILED),
                ("2", FailureState.KILLED),
                ("3", FailureState.WAITING),
                ("4", FailureState.STOPPED),
            ):
                record(store, failure(key, state, run_id=run_id), delay=AT_ONCE)

        assert store.count_iterations([RunState.PAUSED]).failed_rows == 4
        assert store.reopen_failures(OTHER) == 2
        assert store.count_iterations([RunState.PAUSED]).failed_rows == 2

    def test_shards_of_many_runs_are_added_up(self, store: Store) -> None:
        start(store, shards=3)
        start(store, shards=1, run_id=OTHER)
        assert store.checkpoint(take(store), walked("3", 2, 1, 1), lease=AT_ONCE)
        finish(store, 1)

        sums = store.sums_of_shards([RUN, OTHER, "c" * 32])

        assert sums[RUN] == ShardSums(
            done=2, failed=1, skipped=1, size=20, shards=3, undone=2
        )
        assert sums[OTHER] == ShardSums(size=10, shards=1, undone=1)
        assert "c" * 32 not in sums
        assert sums[RUN] == ShardSums.of(store.load_shards(RUN))
        assert store.sums_of_shards([]) == {}

    def test_a_shard_that_has_more_rows_than_planned_counts_them(
        self, store: Store
    ) -> None:
        create(store, state=RunState.PLANNING)
        assert store.add_part(RUN, 0, shards_of(RUN, 1), total=10)
        assert store.checkpoint(take(store), walked("3", done=15), lease=AT_ONCE)

        assert store.sums_of_shards([RUN])[RUN].size == 15

    @pytest.mark.parametrize("limit", [1, 2, 3, 9])
    def test_pages_hold_every_failed_row_once(self, store: Store, limit: int) -> None:
        start(store)
        for key in "123456":
            state = FailureState.FAILED if key in "25" else FailureState.WAITING
            record(store, failure(key, state), delay=AT_ONCE)

        def keys(*states: FailureState) -> set[str]:
            rows = all_pages(
                lambda mark: store.page_failures(
                    RUN, states=states, after=mark, limit=limit
                )
            )
            assert len(rows) == len({row.key for row in rows})
            return {row.key for row in rows}

        assert keys() == set("123456")
        assert keys(FailureState.FAILED) == set("25")
        assert keys(FailureState.KILLED) == set()

    def test_a_state_that_changes_moves_the_run_to_another_list(
        self, store: Store
    ) -> None:
        create(store, state=RunState.RUNNING)
        move(store, RunState.PAUSED)

        assert self.ids(store, 9, states=[RunState.RUNNING]) == ""
        assert self.ids(store, 9, states=[RunState.PAUSED]) == "a"
