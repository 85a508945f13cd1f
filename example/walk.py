"""The second half of the demo: process all cities in shards, and kill a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import Any

from progress import PATIENCE, POLL, Failed
from servers import Server
from witness import Witness

SHARDS = 6
KILL_AT = 0.3  # share of the cities that are done by then
WIDTH = 30


def show(url: str, servers: list[Server]) -> None:
    """Process all cities, kill a worker on the way, and print the result."""
    from cities.models import City
    from cities.tasks import draw_atlas, measure

    from cloudtask import conf

    City.objects.update(metropolis=None, distance=None)
    print(f"\nProcessing all {City.objects.count():,} cities in {SHARDS} shards")
    print("  measure.iterate(City.objects.all(), finalize=draw_atlas)")
    run = measure.iterate(
        City.objects.all(), finalize=draw_atlas, shards=SHARDS, keep=True
    )
    started, witness = time.monotonic(), Witness(run)
    killed = _follow(run, url, servers, witness)
    _summarize(run, killed, time.monotonic() - started)
    witness.tell(killed, conf.settings().lease.total_seconds())


def _follow(run: Any, url: str, servers: list[Server], witness: Witness) -> int:
    """Draw a line for each shard until the run has ended.

    Returns the process id of the worker that was killed.
    """
    lines, before = _Lines(), _cpu(servers[1].process.pid)
    killed: int | None = None
    last, moved = -1, time.monotonic()
    while str(run.refresh().state) not in ("finished", "failed", "aborted"):
        for server in servers:
            server.check()
        report = run.report()
        settled = report.done + report.failed + report.skipped
        lines.draw(report.shards)
        if killed is None and settled > KILL_AT * (run.progress().total or settled + 1):
            killed = _kill_a_worker(url, before, servers[1].process.pid)
            lines.say(f"  killed the worker {killed} of gunicorn with SIGKILL")
        if killed is not None:
            witness.look()
        if settled != last:
            last, moved = settled, time.monotonic()
        if time.monotonic() - moved > PATIENCE:
            raise Failed(f"no progress after {settled:,}: {run.error or run.state}")
        time.sleep(POLL)
    lines.draw(run.report().shards)
    if str(run.state) != "finished":
        raise Failed(f"the iteration is {run.state}: {run.error}")
    if killed is None:
        raise Failed("the iteration ended before a worker was killed")
    return killed


def _kill_a_worker(url: str, before: dict[int, float], master: int) -> int:
    """Kill the worker that has worked most since `before`; gunicorn starts another."""
    spent = {pid: time - before.get(pid, 0) for pid, time in _cpu(master).items()}
    worker = max(spent, key=spent.__getitem__) if spent else _answering(url)
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    return worker


def _cpu(master: int) -> dict[int, float]:
    """The CPU time of each worker in seconds; none if `ps` is not installed."""
    command = ["ps", "-A", "-o", "pid=,ppid=,time="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = [line.split() for line in done.stdout.splitlines()]
    return {int(pid): _seconds(time) for pid, of, time in rows if int(of) == master}


def _seconds(text: str) -> float:
    """Seconds of a time such as 02:03:04 or 3:04.5; days only make it larger."""
    total = 0.0
    for part in text.replace("-", ":").split(":"):
        total = 60 * total + float(part)
    return total


def _answering(url: str) -> int:
    """The worker that answers a request."""
    with urllib.request.urlopen(f"{url}/progress/", timeout=PATIENCE) as response:
        return int(json.load(response)["worker"])


class _Lines:
    """Prints a line for each shard, and draws the lines again in a terminal."""

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty()
        self.drawn = 0
        self.tenth_shown = -1

    def draw(self, shards: Any) -> None:
        lines = [_line(shard) for shard in shards]
        if self.is_live:
            if self.drawn:
                print(f"\x1b[{self.drawn}A", end="")
            print("".join(f"\x1b[2K{line}\n" for line in lines), end="", flush=True)
            self.drawn = len(lines)
        elif lines and self._has_moved(shards):
            print("\n".join(lines), flush=True)

    def _has_moved(self, shards: Any) -> bool:
        """Tell whether another quarter of the rows is done."""
        settled = sum(shard.done + shard.failed + shard.skipped for shard in shards)
        tenth = 4 * settled // max(1, sum(shard.expected for shard in shards))
        moved = tenth > self.tenth_shown
        self.tenth_shown = max(tenth, self.tenth_shown)
        return moved

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.drawn = 0


def _line(shard: Any) -> str:
    settled = shard.done + shard.failed + shard.skipped
    share = min(1.0, settled / shard.expected) if shard.expected else 1.0
    filled = int(WIDTH * share)
    bar = "#" * filled + "-" * (WIDTH - filled)
    return f"  shard {shard.index} [{bar}] {settled:,} {shard.state}"


def _summarize(run: Any, killed: int, seconds: float) -> None:
    from cities.models import City, Report
    from django.conf import settings

    report, cities = run.report(), City.objects.count()
    missing = City.objects.filter(distance=None).count()
    atlases = Report.objects.filter(title="atlas").count()
    print("\nSummary of the iteration")
    print(f"  {report.done:,} of {cities:,} cities: {cities / seconds:,.0f} a second")
    print(
        f"  {report.failed} failed, {report.skipped} skipped, {missing} left out; "
        f"{len(report.shards)} shards, one worker killed ({killed})"
    )
    print(f"  finalize ran {atlases} time: {settings.OUT}/atlas.csv and atlas.png")
    if missing or atlases != 1 or report.done != cities:
        raise Failed("a city was left out, or finalize did not run exactly once")
