"""Commands for people and scripts: tables, JSON and exit codes."""

from __future__ import annotations

import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper

from cloudtask import stores
from cloudtask.management import printing
from cloudtask.models import OutboxMessage
from cloudtask.runs import RunState
from cloudtask.stores.pages import Page
from cloudtask.stores.results import ResultState, StoredResult
from tests.dashboard import seeding
from tests.support import clock as movable

pytestmark = pytest.mark.django_db(databases="__all__")


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def objects(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


# Printing


def test_numbers_stand_at_the_right_and_texts_at_the_left() -> None:
    rows = [{"task": "a.b", "number": 7}, {"task": "long.name", "number": 12_345}]

    assert printing.as_table(("task", "number"), rows).splitlines() == [
        "task       number",
        "a.b             7",
        "long.name  12,345",
    ]


def test_a_cell_is_one_line_without_control_characters() -> None:
    table = printing.as_table(("x",), [{"x": "a\x1b[2Jb\nsecond"}, {"x": "y" * 500}])

    assert "\x1b" not in table
    assert "second" not in table
    assert max(map(len, table.splitlines())) == printing.LONGEST


def test_json_has_a_version_and_times_in_utc() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = printing.as_json({"at": at, "for": timedelta(minutes=2)})

    assert json.loads(text) == {
        "version": 1,
        "at": "2026-01-02T03:04:05Z",
        "for": 120.0,
    }


# Iterations


def test_iterations_are_listed_by_state() -> None:
    store = stores.store()
    running, paused = seeding.run_of(store, 1), seeding.run_of(store, 2)
    run("cloudtask_iterations", "pause", paused)

    [one] = objects("cloudtask_iterations", "list", "--state", "paused")
    text = run("cloudtask_iterations", "list", "--limit", "1")

    assert (one["id"], one["state"], one["done"], one["failed"]) == (
        paused,
        "paused",
        5,
        1,
    )
    assert paused in text
    assert "More: --before" in text
    mark = text.rpartition("--before '")[2].rstrip("'\n")
    assert running in run("cloudtask_iterations", "list", "--before", mark)


def test_an_iteration_is_shown_with_shards_and_failed_rows() -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    seeding.failed_row(store, run_id, "17")

    text = run("cloudtask_iterations", "show", run_id, "--shards", "--failures")

    assert "state: running" in text
    assert "17" in text
    assert text.count("waiting  ") >= 3


def test_one_that_cannot_be_changed_keeps_no_other_back() -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)

    with pytest.raises(CommandError, match="1 failed") as raised:
        run("cloudtask_iterations", "pause", "nobody", run_id)

    assert raised.value.returncode == 1
    assert store.load_run(run_id).state is RunState.PAUSED


def test_waiting_tells_by_its_exit_code_how_a_run_ended() -> None:
    store = stores.store()
    running, cancelled = seeding.run_of(store, 1), seeding.run_of(store, 2)
    run("cloudtask_iterations", "cancel", cancelled)

    with pytest.raises(CommandError, match="still running") as late:
        run("cloudtask_iterations", "wait", running, "--timeout", "0")
    with pytest.raises(SystemExit) as ended:
        run("cloudtask_iterations", "wait", cancelled)

    assert late.value.returncode == 3
    assert ended.value.code == 1


def test_waiting_for_a_finished_run_succeeds() -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    for state in (RunState.FINALIZING, RunState.FINISHED):
        store.change_run(run_id, to=state, only_from=list(RunState))

    assert "finished" in run("cloudtask_iterations", "wait", run_id)


def test_an_unknown_iteration_is_an_error() -> None:
    with pytest.raises(CommandError, match="no iteration 'nobody'"):
        run("cloudtask_iterations", "show", "nobody")


def test_a_watched_run_is_drawn_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)

    def finish(seconds: float) -> None:
        for state in (RunState.FINALIZING, RunState.FINISHED):
            store.change_run(run_id, to=state, only_from=list(RunState))

    monkeypatch.setattr(time, "sleep", finish)

    first, *_, last = run("cloudtask_iterations", "watch", run_id).split("id  ")[1:]

    assert "running" in first
    assert "[###-----------------] 15%" in first
    assert "finished" in last


def test_a_watch_of_all_shows_those_at_work_until_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupt)
    assert "No iteration is at work." in run("cloudtask_iterations", "watch")
    run_id = seeding.run_of(stores.store(), 1)

    [one] = objects("cloudtask_iterations", "watch")
    status = run("cloudtask_status", "--watch", "1")

    assert one["id"] == run_id
    assert "iterations running" in status


def test_a_watched_run_that_failed_is_told_by_the_exit_code() -> None:
    run_id = seeding.run_of(stores.store(), 1, RunState.CANCELLED)

    with pytest.raises(SystemExit) as raised:
        run("cloudtask_iterations", "watch", run_id)
    with pytest.raises(CommandError, match="no iteration 'nobody'"):
        run("cloudtask_iterations", "watch", "nobody")

    assert raised.value.code == 1


def test_in_a_terminal_a_live_text_takes_the_place_of_the_one_before() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    texts = iter([("a", False), ("a", False), ("b", True)])
    shown = Terminal()
    printing.live(OutputWrapper(shown), 0.0, lambda: next(texts))

    assert shown.getvalue() == "".join(f"{printing.CLEAR}{one}\n" for one in "aab")


# Results


def kept_result(key: str, task: str = "app.tasks.sum") -> None:
    made = StoredResult(
        id=key,
        task=task,
        queue="mail",
        state=ResultState.SUCCEEDED,
        value=b"sealed",
        enqueued_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    stores.store().save_result(made, timedelta(days=1))


def test_results_of_both_kinds_are_listed_the_latest_first() -> None:
    kept_result("kept")
    seeding.result("django")

    found = objects("cloudtask_results", "list")
    text = run("cloudtask_results", "list", "--task", "app.tasks.sum")

    assert [one["id"] for one in found] == ["django", "kept"]
    assert [one["backend"] for one in found] == ["default", ""]
    assert "kept" in text
    assert "django" not in text
    assert objects("cloudtask_results", "list", "--status", "FAILED") == []
    assert len(objects("cloudtask_results", "list", "--limit", "1")) == 1
    with pytest.raises(CommandError, match="No results are in 'nowhere'"):
        run("cloudtask_results", "list", "--database", "nowhere")


def test_a_result_is_shown_without_its_value() -> None:
    kept_result("kept-1")
    kept_result("kept-2")

    text = run("cloudtask_results", "show", "kept-1")

    assert "status: SUCCESSFUL" in text
    assert "sealed" not in text
    with pytest.raises(CommandError, match="Several results begin"):
        run("cloudtask_results", "show", "kept")
    with pytest.raises(CommandError, match="There is no result 'nobody'"):
        run("cloudtask_results", "show", "nobody")


def test_a_store_of_its_own_is_a_place_of_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere:
        def page_results(self, **given: Any) -> Page[StoredResult]:
            return before.page_results(**given)

        def load_result(self, key: str) -> StoredResult | None:
            return before.load_result(key)

    kept_result("kept")
    before = stores.store()
    monkeypatch.setattr(stores, "_made", lambda settings: Elsewhere())

    found = objects("cloudtask_results", "list", "--database", "store")

    assert [(one["id"], one["place"]) for one in found] == [("kept", "store")]


# Pruning


def test_a_dry_run_counts_and_removes_nothing() -> None:
    store = stores.store()
    seeding.failed_call(store, "f1")
    seeding.run_of(store, 1, RunState.CANCELLED)
    run("cloudtask_prune")

    with movable.ahead(31 * 86_400.0):
        text = run("cloudtask_prune", "--dry-run")

    assert text.strip() == "would remove 1 failed tasks, 1 iterations"
    assert store.load_failed("f1") is not None


# Failed tasks


def test_failed_tasks_are_chosen_by_error_queue_and_age() -> None:
    store = stores.store()
    seeding.failed_call(store, "a", kind="KeyError")
    seeding.failed_call(store, "b", queue="slow")

    def keys(*options: str) -> list[str]:
        return [one["key"] for one in objects("cloudtask_failed", "list", *options)]

    assert keys("--error", "KeyError") == ["a"]
    assert keys("--queue", "slow") == ["b"]
    assert sorted(keys("--since", "3600")) == ["a", "b"]
    assert len(keys("--limit", "1")) == 1
    assert keys("--limit", "0") == []


def test_failed_tasks_are_counted_in_groups() -> None:
    store = stores.store()
    for key in "abc":
        seeding.failed_call(store, key)

    [group] = objects("cloudtask_failed", "list", "--group-by", "error")
    by_task = run("cloudtask_failed", "list", "--group-by", "task")

    assert (group["number"], group["kind"]) == (3, "ValueError")
    assert by_task.splitlines()[1].split() == [seeding.TASK, "3"]


def test_a_dry_run_does_nothing() -> None:
    store = stores.store()
    seeding.failed_call(store, "a")

    assert "1 failed tasks are meant" in run(
        "cloudtask_failed", "discard", "--error", "ValueError", "--dry-run"
    )
    assert store.count_failed() == 1
    run("cloudtask_failed", "discard", "--error", "ValueError", "--yes")
    assert store.count_failed() == 0


# Outbox


def test_the_outbox_is_listed_released_and_discarded() -> None:
    for key, error in {"a": "refused", "b": "refused", "c": "other"}.items():
        seeding.outbox_row(key, error=error)
    seeding.outbox_row("w", parked=False)

    assert len(objects("cloudtask_outbox", "list")) == 4
    assert len(objects("cloudtask_outbox", "list", "--parked")) == 3
    assert "2 released" in run("cloudtask_outbox", "release", "--error", "ref")
    with pytest.raises(CommandError, match="--yes"):
        run("cloudtask_outbox", "discard", "c")
    assert "1 discarded" in run("cloudtask_outbox", "discard", "c", "--yes")
    with pytest.raises(CommandError, match="1 are not parked") as raised:
        run("cloudtask_outbox", "release", "gone")
    assert raised.value.returncode == 1
    assert OutboxMessage.objects.filter(state="waiting").count() == 3


@pytest.mark.parametrize("options", [(), ("a", "--all"), ("--all", "--error", "x")])
def test_what_is_released_is_said_in_one_way(options: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="Name keys, or give"):
        run("cloudtask_outbox", "release", *options)


# Tasks and status


def test_names_that_no_task_has_are_found() -> None:
    store = stores.store()
    assert "tests.testapp.tasks.note" in run("cloudtask_tasks", "list")
    none = run("cloudtask_tasks", "list", "--unknown")
    seeding.failed_call(store, "a", task="shop.gone.task")

    with pytest.raises(SystemExit) as raised:
        run("cloudtask_tasks", "list", "--unknown")

    assert raised.value.code == 3
    assert none.startswith("Every name that was found is that of a task.\nLooked at ")


def test_names_of_calls_that_wait_in_the_outbox_are_found_too() -> None:
    for key, path, is_parked in (
        ("1", "shop.gone.task", True),
        ("2", "shop.gone.task", False),
        ("3", "tests.testapp.tasks.note", False),
        ("4", "cloudtask.of_another_version", False),
    ):
        seeding.outbox_row(key, parked=is_parked)
        OutboxMessage.objects.filter(key=key).update(task=path)
    out = io.StringIO()

    with pytest.raises(SystemExit):
        call_command("cloudtask_tasks", "list", "--unknown", stdout=out)
    found = {one["task"]: one for one in objects("cloudtask_tasks", "list")}

    assert "shop.gone.task" in out.getvalue()
    assert "messages of each outbox" in out.getvalue()
    assert "tests.testapp" not in out.getvalue()
    gone, known = found["shop.gone.task"], found["tests.testapp.tasks.note"]
    assert (gone["failed"], gone["in outbox"], gone["note"]) == (
        *(0, 2),
        "unknown to this version",
    )
    assert (known["in outbox"], known["note"]) == (1, "")
    assert "cloudtask.of_another_version" not in found


def test_the_status_says_what_needs_a_person() -> None:
    store = stores.store()
    assert not any(one["needs a person"] for one in objects("cloudtask_status"))
    run("cloudtask_status", "--check")
    seeding.failed_call(store, "a")
    run("cloudtask_relay")

    needed = [o["what"] for o in objects("cloudtask_status") if o["needs a person"]]
    with pytest.raises(SystemExit) as raised:
        run("cloudtask_status", "--check")

    assert needed == ["failed tasks in 24 hours"]
    assert raised.value.code == 3
    assert "relay ran" in run("cloudtask_status")


def test_the_status_counts_rows_that_failed_for_good() -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    for key in ("7", "8"):
        seeding.failed_row(store, run_id, key)

    found = {one["what"]: one for one in objects("cloudtask_status")}
    with pytest.raises(SystemExit) as raised:
        run("cloudtask_status", "--check")

    rows = found["failed rows of kept iterations"]
    assert (rows["number"], rows["needs a person"]) == (2, True)
    assert raised.value.code == 3
    store.reopen_failures(run_id)
    run("cloudtask_status", "--check")


def test_failed_rows_are_discarded_so_that_the_status_is_quiet_again() -> None:
    store = stores.store()
    without, run_id = seeding.run_of(store, 1), seeding.run_of(store, 2)
    seeding.failed_row(store, run_id, "7")

    [row] = [one for one in objects("cloudtask_status") if one["number"] == 1]
    [found] = objects("cloudtask_iterations", "list", "--failed-rows")
    none = run("cloudtask_iterations", "list", "--failed-rows", "--state", "paused")
    text = run("cloudtask_iterations", "discard-failures", run_id)

    assert row["detail"] == (
        "see cloudtask_iterations list --failed-rows, then retry-failures ID or "
        "discard-failures ID"
    )
    assert found["id"] == run_id
    assert run_id not in none
    assert text == f"{run_id}: failed rows are discarded\n"
    run("cloudtask_status", "--check")
    assert store.count_failures(run_id) == 0
    assert objects("cloudtask_iterations", "list", "--failed-rows") == []
    [after, _] = objects("cloudtask_iterations", "list")
    assert (after["id"], after["failed"]) == (run_id, 1)
    assert without != run_id


def test_a_list_of_iterations_with_failed_rows_tells_that_there_are_more() -> None:
    store = stores.store()
    for number in (1, 2):
        seeding.failed_row(store, seeding.run_of(store, number), "7")

    text = run("cloudtask_iterations", "list", "--failed-rows", "--limit", "1")

    assert "More iterations have failed rows: raise --limit." in text
    assert text.count(" running ") == 1


def test_an_unknown_iteration_has_no_rows_to_discard() -> None:
    with pytest.raises(CommandError, match="1 failed"):
        run("cloudtask_iterations", "discard-failures", "nobody")


def test_the_status_tells_that_no_relay_runs() -> None:
    from tests.support import clock

    seeding.outbox_row("w", parked=False)
    with clock.ahead(600.0):
        found = {one["what"]: one for one in objects("cloudtask_status")}

    late = found["messages that no relay sends"]
    assert late["needs a person"]
    assert late["detail"].startswith("due for")
