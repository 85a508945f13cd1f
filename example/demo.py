"""`make demo`: run the example with a local Cloud Tasks and gunicorn.

    python example/demo.py [--cities 2000] [--store datastore]

Everything runs on this machine: two servers on free ports of 127.0.0.1, a database and
logs in example/out. With `--store datastore` one of Google's emulators keeps payloads,
failed tasks and iterations. At the end the demo waits, so that a person can look at the
dashboard; without a terminal it ends by itself. Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import cockpit
import servers
import together
import walk
from progress import Failed, Progress

FOLDER = Path(__file__).resolve().parent
COUNTDOWN = 2.0  # seconds
STORY = """\
What you will see
  1. A task for each of some cities, as requests of a local Cloud Tasks.
  2. A task that fails once and is tried again, and one that waits.
  3. A chain, a group with a report, and the task of every night.
  4. All cities in parallel shards. A worker is killed on the way; nothing is lost.
  5. Tasks that fail for good, and the dashboard.
"""
REYKJAVIK = 3413829  # its id in GeoNames


def main() -> int:
    parser = argparse.ArgumentParser(prog="python example/demo.py")
    parser.add_argument("--cities", type=int, default=2000, help="(%(default)s)")
    stores = ("database", "datastore")
    parser.add_argument("--store", choices=stores, default="database")
    options = parser.parse_args()
    print(STORY, flush=True)
    os.environ["ATLAS_STORE"] = options.store
    interrupts = servers.Interrupts()
    try:
        with servers.storing(options.store, interrupts):
            _prepare()
            with servers.running(interrupts) as running:
                _show(options.cities, running)
                if cockpit.can_wait():
                    _wait(interrupts, running)
        print("\nNothing is left running.")
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is left running.")
        return 130
    except (servers.ServerEnded, Failed) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare() -> None:
    """Create a new database with cities."""
    out = Path(os.environ.setdefault("ATLAS_OUT", str(FOLDER / "out")))
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("db.sqlite3*"):
        old.unlink()
    print(f"Making a database in {out}", flush=True)
    for command in (["migrate", "--verbosity=0"], ["load_cities"]):
        made = subprocess.run([sys.executable, "manage.py", *command], cwd=FOLDER)
        if made.returncode:
            raise Failed(f"manage.py {command[0]} ended with {made.returncode}.")


def _show(count: int, running: list[servers.Server]) -> None:
    url = os.environ["ATLAS_URL"]
    print(f"Cloud Tasks: {os.environ['CLOUDTASK_EMULATOR_URL']}/  gunicorn: {url}/")
    _set_up_django()
    from cities.models import City, Report

    progress = Progress(_defer_all(count), running)
    # A web request that defers a task in its transaction. The first attempt fails.
    grown = _post(f"{url}/cities/{REYKJAVIK}/grow/")
    progress.follow(City.objects.filter(metropolis__isnull=False).count)
    seconds = progress.seconds
    progress.wait_for(
        Report.objects.filter(title__contains="s after").exists, "the report"
    )
    largest = Report.objects.filter(title__startswith="largest")
    progress.wait_for(largest.exists, "the ranking")
    noted = City.objects.filter(pk=REYKJAVIK).exclude(local_time="")
    progress.wait_for(noted.exists, "the local time")
    _summarize(progress.total, seconds, grown["task"], running)
    together.show(progress)
    walk.show(url, running)
    cockpit.show(url, running)


def _wait(interrupts: servers.Interrupts, running: list[servers.Server]) -> None:
    """Let a person look at the dashboard, until Ctrl-C or the end of a server."""
    print("  Ctrl-C ends the demo.", flush=True)
    with suppress(KeyboardInterrupt):
        while True:
            for server in running:
                server.check()
            time.sleep(servers.POLL)
    interrupts.came = False  # that was no interruption, but the end


def _set_up_django() -> None:
    """Load Django in this process, which defers tasks to the emulator."""
    import django

    # gRPC would print lines when the emulator ends before this process.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atlas.settings")
    django.setup()


def _defer_all(count: int) -> int:
    """Defer a task for each of `count` cities, one that waits, and a large one.

    Returns the number of cities.
    """
    from cities.models import METROPOLIS, City
    from cities.tasks import find_metropolis, rank, write_report

    from cloudtask import call

    smaller = City.objects.filter(population__lte=METROPOLIS).order_by("-population")
    ids = list(smaller.values_list("pk", flat=True)[:count])
    started = time.monotonic()
    write_report.using(countdown=COUNTDOWN).defer(f"{COUNTDOWN:g} s after the start")
    find_metropolis.defer_many([call(pk) for pk in ids])
    populations = {str(city): city.population for city in City.objects.all()}
    rank.defer(populations)
    seconds = time.monotonic() - started
    print(
        f"Deferred {len(ids):,} tasks, one with a countdown, and one with a list of "
        f"{len(populations):,} cities, in {seconds:.1f} s"
    )
    return len(ids)


def _post(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, data=b"") as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _summarize(
    count: int, seconds: float, retried: str, running: list[servers.Server]
) -> None:
    from cities.models import City, Report

    from cloudtask.models import OutboxMessage
    from cloudtask.stores import store

    remote = City.objects.filter(distance__isnull=False).order_by("-distance")[0]
    reykjavik = City.objects.get(pk=REYKJAVIK)
    report = Report.objects.get(title__contains="s after")
    ranking = Report.objects.get(title__startswith="largest")
    failed = store().count_failed()
    print("\nSummary")
    print(f"  {count:,} of {count:,} cities: {count / seconds:,.0f} tasks a second")
    print(
        f"  most remote of them: {remote}, {remote.distance:,.0f} km from "
        f"{remote.metropolis}"
    )
    print(
        f"  with a countdown, {report.title}: {report.cities_done:,} cities were done"
    )
    print(f"  with a large argument, {ranking.title} of {ranking.cities_done:,}")
    print(f"  failed once, retried, succeeded: {reykjavik}, {reykjavik.local_time}")
    for line in _dispatches(retried, running[0].log):
        print(f"    {line}")
    print(
        f"  failed tasks: {failed}; left in the outbox: {OutboxMessage.objects.count()}"
    )
    if failed:
        raise Failed(f"{failed} tasks failed; see {running[1].log}")


def _dispatches(name: str, log: Path) -> list[str]:
    """Lines of the emulator's log about a task: each attempt with its answer."""
    lines = log.read_text().splitlines()
    found = [line.partition(f"/{name} ")[2] for line in lines if f"/{name} " in line]
    return [re.sub(r"POST \S+ ", "", line) for line in found]


if __name__ == "__main__":
    sys.exit(main())
