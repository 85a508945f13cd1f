"""A site whose only database is Datastore, as real processes, on both emulators."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from cloudtask.datastore_emulator import VARIABLE
from tests.acceptance.clouds import our_emulator
from tests.acceptance.processes import running, wait_for_server
from tests.acceptance.site import HTTP, listening, target_settings
from tests.stores.datastore_fixtures import KINDS, empty_place
from tests.support.emulators import Emulators
from tests.support.waiting import wait_until

pytest.importorskip("gcloudc", reason="it needs Django 5.2, on Python 3.11")
pytestmark = [pytest.mark.acceptance, pytest.mark.datastore]

MIB = 1024 * 1024
ORDERS = 250
BROKEN = range(7, ORDERS + 1, 50)  # as the task has it


@dataclass(frozen=True)
class Site:
    """The served site, and the environment of its commands."""

    url: str
    master: int
    environ: dict[str, str]
    folder: Path

    def get(self, path: str, **query: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}{path}?{urlencode(query)}") as answer:
            return json.load(answer)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}{path}", data) as answer:
            return json.load(answer)

    def defer(self, task: str, *args: str, **more: Any) -> None:
        answer = self.post("/defer/", task=task, args=args, **more)
        assert "refused" not in answer, answer

    def visits(self) -> dict[str, list[int]]:
        return self.get("/visits/")

    def wait_for(self, name: str) -> list[int]:
        return wait_until(lambda: self.visits().get(name), name, self.tail)

    def wait_for_state(self, run: str, state: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.get("/state/", id=run)
            return found if found["state"] == state else None

        return wait_until(look, f"{run} is {state}", self.tail)

    def manage(self, *arguments: str) -> str:
        """What a management command prints."""
        return self.post("/manage/", arguments=arguments)["output"]

    @property
    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.master}/task/{self.master}/children")
        return [int(pid) for pid in path.read_text().split()]

    def is_broken(self, yes: bool) -> None:
        mark = self.folder / "broken"
        mark.touch() if yes else mark.unlink()

    def tail(self) -> str:
        return (self.folder / "gunicorn.log").read_text(errors="replace")[-3000:]


@contextmanager
def served(folder: Path, datastore: str) -> Iterator[Site]:
    with listening() as sock, our_emulator(folder, sock.getsockname()[1]) as cloud:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        target = target_settings(HTTP, url, cloud)
        given = {**empty_place(), "target": target, "folder": str(folder)}
        environ = {
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.datastore_site.settings",
            "DATASTORE_SITE": json.dumps(given),
            "CLOUD_TASKS_EMULATOR_HOST": cloud.address,
            VARIABLE: datastore,
        }
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket"]
        command += ["django.core.wsgi:get_wsgi_application()", "--workers=2"]
        command += ["--threads=4", f"--bind=fd://{sock.fileno()}"]
        log = folder / "gunicorn.log"
        fds = [sock.fileno()]
        with running(command, log, environ=environ, pass_fds=fds) as process:
            site = Site(url, process.pid, environ, folder)
            wait_for_server(process, lambda: _answers(site), log)
            yield site


def _answers(site: Site) -> bool:
    with suppress(OSError):
        return site.visits() == {}
    return False


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=pytest.mark.xdist_group(f"{k} site")) for k in KINDS],
)
def site(
    request: pytest.FixtureRequest,
    emulators: Emulators,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    with served(folder, emulators.address(request.param)) as made:
        yield made


def test_a_call_with_20_mib_runs(site: Site) -> None:
    site.defer("measure", "large", size=20 * MIB)

    assert site.wait_for("large") == [1, 20 * MIB]


def test_a_task_leaves_with_the_commit_and_not_after_a_rollback(site: Site) -> None:
    for ends in ("rollback", "commit"):
        site.defer("measure", ends, ends=ends, size=2 * MIB)

    assert site.wait_for("commit") == [1, 2 * MIB]
    assert "beside commit" in site.visits()
    assert not {"rollback", "beside rollback"} & set(site.visits())


def test_what_needs_tables_is_refused_with_the_reason(site: Site) -> None:
    unique = site.post("/defer/", task="single", args=["once"])
    outbox = {"transactional": True}
    waiting = site.post("/defer/", task="measure", args=["a"], size=1, options=outbox)

    assert "unique needs tables of a relational database" in unique["refused"]
    assert "transactional=True needs tables" in waiting["refused"]
    assert "once" not in site.visits()


def test_failed_tasks_are_listed_retried_and_pruned(site: Site) -> None:
    site.is_broken(True)
    for name in ("mended", "forgotten"):
        site.defer("mend", name)

    def listed() -> list[str]:
        lines = site.manage("cloudtask_failed", "list").splitlines()
        return [line.split()[0] for line in lines if "ValueError: broken" in line]

    wait_until(lambda: len(listed()) == 2, "two failed tasks", site.tail)
    site.is_broken(False)
    shown = {key: site.manage("cloudtask_failed", "show", key) for key in listed()}
    [key] = [key for key, text in shown.items() if "mended" in text]
    site.manage("cloudtask_failed", "retry", key)
    assert site.wait_for("mended")[0] == 1
    assert len(listed()) == 1
    site.manage("cloudtask_prune", "--failed-older-than=0")
    assert listed() == []


def test_a_run_goes_on_after_a_kill_and_retries_its_failed_rows(site: Site) -> None:
    site.post("/orders/", numbers=list(range(1, ORDERS + 1)))
    site.is_broken(True)

    run = site.post("/walk/", shards=4)["id"]
    wait_until(lambda: site.get("/state/", id=run)["done"] > ORDERS // 5, "rows")
    os.kill(site.workers[0], signal.SIGKILL)

    found = site.wait_for_state(run, "finished")
    # The killed worker may have left locks, for which a row of its own waits in vain.
    failed = found["failed"]
    assert found["errors"].count("ValueError: broken") == len(BROKEN) <= failed
    assert found["done"] == ORDERS - failed <= orders(site)
    assert site.visits()["closed"] == [1, 0]

    site.is_broken(False)
    assert site.post("/retry/", id=run) == {"retried": failed}
    wait_until(lambda: orders(site) == ORDERS, "the rows that had failed", site.tail)
    assert site.wait_for_state(run, "finished")["failed"] == 0
    assert site.visits()["closed"] == [1, 0]


def orders(site: Site) -> int:
    return sum(name.startswith("order ") for name in site.visits())


def test_commands_and_checks_work_without_a_relational_database(site: Site) -> None:
    assert "no issues" in site.manage("check", "--database=default")
    assert "nothing to send" in site.manage("cloudtask_relay")
    assert "relay ran" in site.manage("cloudtask_status")
    assert "database" in site.manage("cloudtask_outbox", "list")
