"""The site under test: gunicorn with several workers, seen through HTTP only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.acceptance.clouds import Cloud
from tests.acceptance.processes import ROOT, running, wait_for_server
from tests.support.waiting import wait_until

WSGI = "tests.acceptance.project.wsgi:application"
ACCOUNT = "tasks@p.iam.gserviceaccount.com"
APP_ENGINE = "cloudtask.targets.AppEngineTarget"
HTTP = "cloudtask.targets.HttpTarget"
THREADED = ("--threads=4",)


@dataclass(frozen=True)
class Site:
    """A served project and the Cloud Tasks that it uses."""

    url: str
    cloud: Cloud
    target: str
    log: Path

    @property
    def prefix(self) -> str:
        """Of the headers of a dispatch."""
        return "X-Appengine-" if self.target == APP_ENGINE else "X-Cloudtasks-"

    @property
    def verifies_tokens(self) -> bool:
        return self.target == HTTP and self.cloud.issuer is not None

    def get(self, path: str, **query: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}{path}?{urlencode(query)}") as response:
            return json.load(response)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}{path}", data) as response:
            return json.load(response)

    def status_of_post(self, path: str, body: bytes, **headers: str) -> int:
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def defer(self, task: str, *args: Any, **options: Any) -> dict[str, str]:
        return self.post("/defer/", task=task, args=args, options=options)

    def entries(self, text: str) -> list[dict[str, Any]]:
        return self.get("/entries/", text=text)["entries"]

    def wait_for_entries(self, text: str, count: int = 1) -> list[dict[str, Any]]:
        """The entries that start with `text`, once there are so many."""

        def look() -> list[dict[str, Any]] | None:
            found = self.entries(text)
            return found if len(found) >= count else None

        return wait_until(look, f"{count} entries of {text!r}", self.tail)

    def deliveries(self, name: str) -> list[dict[str, Any]]:
        return self.get("/deliveries/", name=name)["deliveries"]

    def wait_for_deliveries(self, name: str, count: int) -> list[dict[str, Any]]:
        """The deliveries of a task name, once that many were answered."""

        def look() -> list[dict[str, Any]] | None:
            found = self.deliveries(name)
            return found if len(found) >= count else None

        return wait_until(look, f"{count} deliveries of {name!r}", self.tail)

    def leftovers(self) -> dict[str, Any]:
        return self.get("/leftovers/")

    def tail(self) -> str:
        return f"The log ends: {self.log.read_text(errors='replace')[-3000:]}"


def target_settings(target: str, url: str, cloud: Cloud) -> dict[str, Any]:
    """CLOUDTASK["TARGET"]: tokens are verified wherever the cloud signs any."""
    if target == APP_ENGINE:
        return {"BACKEND": APP_ENGINE} | ({} if cloud.issuer else {"VERIFY": False})
    settings: dict[str, Any] = {"BACKEND": HTTP, "URL": url}
    if cloud.issuer is None:
        return settings | {"VERIFY": False}
    return settings | {"SERVICE_ACCOUNT": ACCOUNT, "ISSUER": cloud.issuer}


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket for gunicorn to inherit: its port is known before anything starts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(512)
        yield sock


@contextmanager
def served(
    sock: socket.socket,
    cloud: Cloud,
    target: str,
    folder: Path,
    workers: Sequence[str] = THREADED,
    **environ: str,
) -> Iterator[Site]:
    """gunicorn on `sock`, its application loaded before it forks two workers."""
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    log = folder / "gunicorn.log"
    environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.project.settings",
        "ACCEPTANCE_FOLDER": str(folder),
        "ACCEPTANCE_TARGET": json.dumps(target_settings(target, url, cloud)),
        "CLOUD_TASKS_EMULATOR_HOST": cloud.address,
    }
    _migrate(environ)
    command = [sys.executable, "-m", "gunicorn", WSGI, f"--bind=fd://{sock.fileno()}"]
    command += ["--preload", "--workers=2", *workers, "--no-control-socket"]
    with running(command, log, environ=environ, pass_fds=[sock.fileno()]) as process:
        site = Site(url, cloud, target, log)
        wait_for_server(process, lambda: _answers(site), log)
        yield site


def _migrate(environ: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "django",
        "migrate",
        "--run-syncdb",
        "--verbosity=0",
    ]
    env = os.environ | environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=ROOT, env=env)


def _answers(site: Site) -> bool:
    try:
        site.leftovers()
    except OSError:
        return False
    return True
