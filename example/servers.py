"""Starts the two servers of the demo, as processes that always end with it.

Don't copy this. A project of your own runs `manage.py cloudtask_emulator` and its web
server in two terminals, or only `manage.py runserver`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudtask import datastore_emulator

FOLDER = Path(__file__).resolve().parent
START_DEADLINE = 60.0  # seconds
STOP_DEADLINE = 10.0  # seconds, then by force
POLL = 0.05  # seconds


class ServerEnded(Exception):
    """A server ended unexpectedly; the message has the end of its log."""


class Server:
    """A server as a process with a process group of its own.

    Its workers end with it. Ctrl-C reaches only the demo, which then stops the servers.
    """

    def __init__(self, name: str, command: Sequence[str], *fds: int) -> None:
        self.name = name
        self.log = Path(os.environ["ATLAS_OUT"]) / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise ServerEnded unless the process runs."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise ServerEnded(f"{self.name} ended ({self.log}):\n{tail}")

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_DEADLINE)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # when the whole group is gone
            os.killpg(self.process.pid, number)


class Interrupts:
    """Turns signals that end the demo into KeyboardInterrupt.

    While a server is being started or stopped, a signal waits. Otherwise the server
    could be left running.
    """

    def __init__(self) -> None:
        self.holds = 0
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.came = True
        if not self.holds:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        if self.came and not self.holds:
            raise KeyboardInterrupt


@contextmanager
def storing(store: str, interrupts: Interrupts) -> Iterator[None]:
    """Run one of Google's emulators of Datastore, if the state is kept there."""
    if store != "datastore":
        yield
        return
    if address := os.environ.get(datastore_emulator.VARIABLE):
        print(f"Datastore: the emulator at {address}")
        yield
        return
    try:
        with interrupts.held():
            found = datastore_emulator.start()
    except datastore_emulator.NotInstalled as error:
        raise ServerEnded(str(error)) from error
    component = datastore_emulator.KINDS[found.kind].component
    print(f"Datastore: {component} at {found.address}", flush=True)
    os.environ[datastore_emulator.VARIABLE] = found.address
    try:
        yield
    finally:
        with interrupts.held():
            found.stop()


@contextmanager
def running(interrupts: Interrupts) -> Iterator[list[Server]]:
    """Run the emulator and gunicorn on free ports.

    Their addresses are put into the environment, where the settings read them.
    """
    started: list[Server] = []
    # Bound here and inherited by gunicorn, so the address is known before it starts.
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        os.environ["ATLAS_URL"] = url
        try:
            with interrupts.held():
                started.append(_emulator())
            _wait_for(started[0], _announcement().exists)
            _read_announcement()
            with interrupts.held():
                started.append(_gunicorn(sock))
            _wait_for(started[1], lambda: _answers(f"{url}/progress/"))
            yield started
        finally:
            # The emulator is stopped first, so that no new request reaches gunicorn.
            with interrupts.held():
                for server in started:
                    server.stop()


def _emulator() -> Server:
    """Start the emulator with the queues of settings.CLOUDTASK."""
    _announcement().unlink(missing_ok=True)
    ports = ("--port=0", "--http-port=0", f"--announce={_announcement()}")
    return Server("emulator", ["manage.py", "cloudtask_emulator", *ports])


def _announcement() -> Path:
    """The file in which the emulator writes its addresses when it is ready."""
    return Path(os.environ["ATLAS_OUT"]) / "emulator.json"


def _read_announcement() -> None:
    facts = json.loads(_announcement().read_text())
    os.environ["CLOUD_TASKS_EMULATOR_HOST"] = facts["address"]
    os.environ["CLOUDTASK_EMULATOR_URL"] = facts["http_address"]


def _gunicorn(sock: socket.socket) -> Server:
    size = ["--workers=2", "--threads=4", "--no-control-socket"]
    command = ["-m", "gunicorn", "atlas.wsgi", *size, f"--bind=fd://{sock.fileno()}"]
    return Server("gunicorn", command, sock.fileno())


def _wait_for(server: Server, is_ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + START_DEADLINE
    while not is_ready():
        server.check()
        if time.monotonic() > give_up:
            raise ServerEnded(f"{server.name} does not answer; see {server.log}")
        time.sleep(POLL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
