"""gunicorn workers are killed in the middle of runs, for real.

With CLOUDTASK_TEST_FULL_LENGTH=1 the exhaustive tests last as long as in production:
a minute of kills, and gunicorn's own timeout of 30 seconds.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from django.db import connection

from cloudtask import conf
from cloudtask.iteration import RunState
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.iteration.workers import effects, served, things
from tests.support.waiting import wait_until

IS_FULL = os.environ.get("CLOUDTASK_TEST_FULL_LENGTH") == "1"
LEASE = 3  # seconds

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(databases=["default", "other"]),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it needs Linux"),
]


def wait_for(run, server, state=RunState.FINISHED):
    """Wait for the end as long as rows go on: no deadline for all of them."""
    while run.refresh().state is not state:
        before = Effect.objects.count()
        wait_until(
            lambda before=before: (
                Effect.objects.count() > before or run.refresh().state is state
            ),
            f"{state} after {before} rows",
            lambda: f"{run.error} {server.log.read_text()[-2000:]}",
        )


def until(is_time, run):
    """Wait for a time, or the end of the run."""
    while not is_time() and run.refresh().state is not RunState.FINISHED:
        time.sleep(0.2)


def test_each_row_takes_effect_once_though_workers_are_killed(tmp_path, monkeypatch):
    if connection.vendor != "postgresql":
        pytest.skip("the exhaustive tests kill workers on MariaDB")
    rows = 100_000
    arguments = ("--workers=3", "--timeout=600")
    with served(tmp_path, monkeypatch, *arguments, LEASE=LEASE) as server:
        assert conf.settings().lease.total_seconds() == LEASE
        things(rows)
        run = tasks.mark.iterate(
            Thing.objects.all(),
            finalize=tasks.mark_finalized,
            shards=4,
            atomic="page",
            batch_size=50,
            keep=True,
        )
        for part in (rows // 10, rows // 3):
            wait_until(lambda part=part: Effect.objects.count() > part, "rows")
            server.kill(*server.workers)
        at_last_kill = Effect.objects.count()
        wait_for(run, server)

        assert effects() == (rows, rows, 1)
        assert run.report().done == rows
        assert at_last_kill < rows, "they were killed too late"
        fences = sum(shard.fence for shard in store().load_shards(run.id))
    print(
        f"\n{len(server.killed)} workers killed at {at_last_kill:,} of {rows:,} rows; "
        f"{fences} leases; each row's effect once, finalize once"
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("atomic", ["page", "row"])
def test_a_worker_killed_every_moment_changes_no_effect(tmp_path, monkeypatch, atomic):
    """A random worker is killed each 1.3 seconds, for a minute at full length."""
    if connection.vendor == "sqlite":
        pytest.skip("it needs a server of databases")
    rows, seconds = (6_000, 60) if IS_FULL else (1_000, 10)
    # What a worker must import would take longer than it lives.
    arguments = ("--preload", "--workers=3", "--timeout=600")
    with served(tmp_path, monkeypatch, *arguments, LEASE=LEASE) as server:
        things(rows)
        run = tasks.mark_slowly.iterate(
            Thing.objects.all(),
            finalize=tasks.mark_finalized,
            shards=3,
            atomic=atomic,
            args=(0.03,),
            keep=True,
        )
        wait_until(lambda: effects()[0], "a row")
        started = time.monotonic()
        with server.killing(every=1.3, seed=7):
            until(lambda: time.monotonic() > started + seconds, run)
        at_last_kill = effects()[0]
        wait_for(run, server)
        took = time.monotonic() - started

        assert server.killed
        assert effects() == (rows, rows, 1)
        assert run.report().done == rows
    print(
        f"\n{connection.vendor}, {atomic=}: {len(server.killed)} workers killed "
        f"until {at_last_kill:,} of {rows:,} rows; they and finalize took effect once, "
        f"in {took:.0f} s"
    )


@pytest.mark.exhaustive
def test_a_server_that_kills_slow_requests_ends_the_run_nearly_as_soon(
    tmp_path, monkeypatch
):
    """gunicorn as everybody starts it kills each request after 30 seconds. A run with
    threads, which are not killed, tells how long its rows take."""
    if connection.vendor == "sqlite":
        pytest.skip("it needs a server of databases")
    # Legs take 5 seconds at least, so the server must not kill them before that.
    rows, timeout = (4_000, 30) if IS_FULL else (1_200, 10)
    in_threads = run_of_slow_rows(
        tmp_path, monkeypatch, rows, "--threads=4", "--timeout=600"
    )
    killed = run_of_slow_rows(
        tmp_path, monkeypatch, rows, "--workers=3", f"--timeout={timeout}"
    )

    assert killed.timeouts, "no request took so long that it was killed"
    assert killed.pages, "no page was answered beside the run"
    print(
        f"\n{connection.vendor}: {rows:,} rows of 20 ms in 2 shards take "
        f"{in_threads.took:.1f} s in threads, {killed.took:.1f} s with workers killed "
        f"after {timeout} s ({killed.took / in_threads.took:.2f}x); "
        f"{killed.timeouts} kills; {len(killed.pages)} pages answered meanwhile, the "
        f"slowest in {max(killed.pages):.2f} s"
    )


class Ended:
    """What came of a run of slow rows."""

    def __init__(self, took: float, pages: list[float], log: str) -> None:
        self.took, self.pages = took, pages
        self.timeouts = log.count("WORKER TIMEOUT")


def run_of_slow_rows(folder, monkeypatch, rows, *arguments):
    folder = folder / arguments[0].strip("-")
    folder.mkdir()
    with served(folder, monkeypatch, *arguments) as server:
        things(rows)
        wait_until(lambda: server.answers(), "a page")
        started = time.monotonic()
        run = tasks.mark_slowly.iterate(
            Thing.objects.all(),
            finalize=tasks.mark_finalized,
            shards=2,
            atomic="page",
            args=(0.02,),
            keep=True,
        )
        with server.visited() as pages:
            wait_for(run, server)
        took = time.monotonic() - started
        assert effects() == (rows, rows, 1)
        assert run.report().done == rows
        return Ended(took, pages, server.log.read_text())
