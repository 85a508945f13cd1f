"""Processes of the benchmarks: callers that take orders, workers, and their end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.databases import server_url

ROOT = Path(__file__).resolve().parent.parent
REDIS = "redis://127.0.0.1:6379/9"
PATIENCE = 15.0  # seconds until a process that was asked to end is killed


class Unavailable(Exception):
    """A peer can't be measured here; the text says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started(
    command: Sequence[str], environ: Mapping[str, str], log: Path, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, ended with all that it has started."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environ},
            stderr=output,
            text=True,
            start_new_session=True,
            **({"stdout": output} | options),
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            continue
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    # The first process may end before those that it started.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Caller:
    """A process that enqueues calls of one peer, and says how long that took."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def __call__(self, verb: str, **values: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"verb": verb, **values}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(tail(self._log) or "its caller ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer["value"]


def tail(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


class Bench:
    """The folder, the ports and the environment of one peer's processes."""

    def __init__(self, stack: ExitStack, peer: str, **environ: str) -> None:
        self._stack = stack
        self.peer = peer
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.log = self.folder / "log"
        self.log.touch()
        self.ports = {
            name: free_port() for name in ("EMULATOR", "EMULATOR_HTTP", "SITE")
        }
        self.environ = {
            "DJANGO_SETTINGS_MODULE": "benchmarks.site.settings",
            "BENCH_PEER": peer,
            "BENCH_FOLDER": str(self.folder),
            "BENCH_SITE_URL": f"http://127.0.0.1:{self.ports['SITE']}",
            "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{self.ports['EMULATOR']}",
            **{f"BENCH_{name}_PORT": str(port) for name, port in self.ports.items()},
            **environ,
        }
        if peer.startswith("cloudtask") and "gcloud" not in peer:
            issuer = f"http://127.0.0.1:{self.ports['EMULATOR_HTTP']}"
            self.environ["BENCH_ISSUER"] = issuer

    def caller(self, **environ: str) -> Caller:
        """A new caller; `environ` may lead it through a proxy."""
        command = [sys.executable, "-m", "benchmarks.caller"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = self._stack.enter_context(
            started(command, {**self.environ, **environ}, self.log, **pipes)
        )
        return Caller(process, self.log)

    def start(self, command: Sequence[str]) -> None:
        self._stack.enter_context(started(command, self.environ, self.log))

    def wait_for(self, ports: Sequence[str]) -> None:
        """Wait until servers answer on these ports."""
        self.wait_until(lambda: all(answers(self.ports[name]) for name in ports))

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up:
                raise Unavailable(f"no server answers: {tail(self.log)}")
            time.sleep(0.05)

    @property
    def redis(self) -> str:
        return os.environ.get("BENCH_REDIS_URL", REDIS)

    def upstreams(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Where Redis and PostgreSQL are."""
        urls = urlsplit(self.redis), urlsplit(server_url("postgres"))
        redis, postgres = ((url.hostname or "127.0.0.1", url.port) for url in urls)
        return (redis[0], redis[1] or 6379), (postgres[0], postgres[1] or 5432)


@contextmanager
def bench(peer: str, **environ: str) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, peer, **environ)
