"""Takes the pictures in docs/images: `make screenshots`.

Each page is filled with the same invented shop. The pictures are not compared.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard import seeding

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
TASKS = {
    "shop.tasks.send_receipt": ("SMTPServerDisconnected", "please run connect() first"),
    "shop.tasks.charge_card": ("CardDeclined", "card ending in 4242 was declined"),
    "search.tasks.index_product": ("ConnectionTimeout", "no answer after 10 s"),
}


def fill(store: Any) -> None:
    """A shop on a day on which a few things went wrong."""
    from cloudtask.models import FailedTask, IterationRun
    from cloudtask.runs import FailureState, RowFailure, Run, RunState
    from tests.stores.runs_making import record, shards_of, take, walked

    def run(number: int, task: str, done: list[int], state: Any, minutes: int) -> str:
        run_id = f"{number:08x}" * 4
        store.create_run(
            Run(id=run_id, task=task, queue="bulk", state=RunState.PLANNING)
        )
        shards = [_wide(shard) for shard in shards_of(run_id, len(done))]
        store.add_part(run_id, 0, shards, total=10_000 * len(done))
        for index, part in enumerate(done):
            shard = take(store, index, run_id=run_id)
            lease = timedelta(minutes=5)
            store.checkpoint(
                shard, walked("1", done=part, failed=part // 900), lease=lease
            )
            if part == 10_000:
                store.complete(shard, walked("1", done=part - 3, failed=3))
        if state is not RunState.RUNNING:
            steps = [RunState.FINALIZING, state]
            if state is not RunState.FINISHED:
                steps = [state]
            for step in steps:
                store.change_run(run_id, to=step, only_from=list(RunState))
        start = datetime.now(UTC) - timedelta(minutes=minutes)
        ended = start + timedelta(minutes=7) if state is RunState.FINISHED else None
        IterationRun.objects.filter(pk=run_id).update(
            started_at=start, created_at=start, finished_at=ended
        )
        return run_id

    live = run(
        0xA11CE,
        "shop.tasks.recalculate_prices",
        [10_000, 10_000, 8_211, 6_904, 7_330, 2_120, 0, 0],
        RunState.RUNNING,
        9,
    )
    run(0xB0B, "search.tasks.index_product", [7_811, 4_000], RunState.RUNNING, 3)
    run(0xCAFE, "shop.tasks.archive_orders", [3_300, 100, 0], RunState.PAUSED, 47)
    run(0xD00D, "newsletter.tasks.send_issue", [10_000] * 3, RunState.FINISHED, 190)
    run(0xE66, "shop.tasks.resize_images", [4_004, 1_200], RunState.FAILED, 260)
    IterationRun.objects.filter(task__endswith="resize_images").update(
        error="finalize was given up after 5 calls: OSError: No space left on device"
    )
    for key in (4711, 4712, 5093, 7001):
        record(
            store,
            RowFailure(
                run=live,
                shard=2,
                key=str(key),
                state=FailureState.FAILED,
                attempts=3,
                error="decimal.InvalidOperation: price of product is empty",
                traceback=seeding.TRACE + "decimal.InvalidOperation: price is empty",
            ),
            delay=timedelta(0),
        )
    number = 0
    for (task, (kind, error)), many in zip(TASKS.items(), (17, 4, 9), strict=True):
        for _ in range(many):
            number += 1
            call = f"{number * 2654435761 % 2**64:016x}{number * 40503 % 2**64:016x}"
            trace = seeding.TRACE.replace(
                "shop/mail.py", task.replace(".", "/") + ".py"
            )
            seeding.failed_call(
                store,
                call,
                task=task,
                kind=kind,
                group=f"{task[-12:]:g>32}"[:32],
                error=f"{kind}: {error}",
                queue="mail" if "send" in task else "default",
                arguments="order_id=4711, email='ann@shop.example', token='********'",
                traceback=f"{trace}    connection.send(message)\n{kind}: {error}",
            )
            at = datetime.now(UTC) - timedelta(minutes=11 * number + 2)
            FailedTask.objects.filter(pk=call).update(failed_at=at)
    for number in range(3):
        seeding.outbox_row(
            f"{number:032x}", error="QueueNotFound: queue 'mail' does not exist"
        )
    for number in range(12):
        seeding.outbox_row(f"w{number:031x}", parked=False, error="")
    store.note_upkeep("relay", "41 sent, 0 postponed, 0 parked")
    store.note_upkeep("sweep", "0 lost steps made again")


def _wide(shard: Any) -> Any:
    from dataclasses import replace

    return replace(shard, expected=10_000)


RUN = f"{0xA11CE:08x}" * 4
PAGES = {
    "overview": "/tasks/",
    "iterations": "/tasks/iteration/",
    "iteration": f"/tasks/iteration/{RUN}/change/",
    "failed": "/tasks/failed/",
    "outbox": "/tasks/outbox/",
    "queues": "/tasks/queue/",
    "tasks": "/tasks/task/",
    "results": "/tasks/result/",
    "in-admin": "/admin/cloudtask/overview/",
}
# Name, color scheme and width of those that the documentation shows.
SHOWN = {
    ("overview", "light", 1280),
    ("overview", "dark", 390),
    ("in-admin", "dark", 1280),
    ("iteration", "light", 1280),
    ("failed-call", "light", 1280),
    ("outbox", "light", 1280),
    ("doctor", "light", 1280),
}


def take_all(browser: Any, url: str, user: Any, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            _take(browser, url, user, out, scheme, width)


def _take(browser: Any, url: str, user: Any, out: Path, *look: Any) -> None:
    from tests.dashboard.browsing import Window

    scheme, width = look
    viewport = {"width": width, "height": 800}
    window = Window(browser, url, user, color_scheme=scheme, viewport=viewport)
    page = window.page

    def take(name: str) -> None:
        if out != IMAGES or (name, *look) in SHOWN:
            file = out / f"{name}-{scheme}-{width}.png"
            page.screenshot(path=str(file), full_page=True)

    for name, path in PAGES.items():
        page.goto(path)
        if name == "iteration":
            page.locator("details").first.click()
        take(name)
    page.goto(PAGES["failed"])
    page.locator(".ct-table tbody th a").last.click()
    take("failed-call")
    page.goto("/tasks/doctor/")
    page.locator("button.ct-primary").click()
    page.wait_for_selector(".ct-table")
    take("doctor")
    assert window.problems == window.violations() == []
    window.context.close()


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_take_screenshots(browser: Any, server: Any, configure: Any) -> None:
    """Run by `make screenshots` only: the name of this file is no test's."""
    from django.contrib.auth.models import User

    from cloudtask import stores

    configure(
        QUEUES={
            "default": {},
            "mail": {"rate": "50/s", "concurrency": 20, "max_attempts": 10},
            "bulk": {"rate": "500/s", "concurrency": 64},
        }
    )
    user = User.objects.create_superuser("ann", password="ann")
    fill(stores.store())
    take_all(browser, server.url, user, Path(os.environ.get("IMAGES", IMAGES)))
