"""Commands for people and scripts: tables, JSON and exit codes."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from cloudtask import stores
from cloudtask.management import printing
from cloudtask.models import OutboxMessage
from cloudtask.runs import RunState
from tests.dashboard import seeding

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
    run("cloudtask_tasks", "list", "--unknown")
    seeding.failed_call(store, "a", task="shop.gone.task")

    with pytest.raises(SystemExit) as raised:
        run("cloudtask_tasks", "list", "--unknown")

    assert raised.value.code == 3


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


def test_the_status_tells_that_no_relay_runs() -> None:
    from tests.support import clock

    seeding.outbox_row("w", parked=False)
    with clock.ahead(600.0):
        found = {one["what"]: one for one in objects("cloudtask_status")}

    late = found["messages that no relay sends"]
    assert late["needs a person"]
    assert late["detail"].startswith("due for")
