"""Two local Cloud Tasks: the one of this package, and gcloud-tasks-emulator of PyPI."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT, running, wait_for_server

QUEUES = tuple(f"projects/p/locations/l/queues/{name}" for name in ("default", "mail"))
OTHER = "gcloud-tasks-emulator==0.6.2"
# It needs protobuf < 5, and the pkg_resources of an older setuptools: an environment of
# its own.
OTHER_REQUIREMENTS = (OTHER, "protobuf<5", "setuptools<81")
OTHER_FOLDER = ROOT / ".venv-gcloud-emulator"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A running Cloud Tasks; `issuer` is that of its OIDC tokens, if it signs any."""

    address: str
    issuer: str | None = None
    has_batches: bool
    has_backoff: bool
    refuses_taken_names: bool


StartCloud = Callable[[Path, int], AbstractContextManager[Cloud]]


@contextmanager
def our_emulator(folder: Path, target_port: int) -> Iterator[Cloud]:
    """`python -m cloudtask.emulator`, dispatching App Engine tasks to `target_port`."""
    announcement, log = folder / "emulator.json", folder / "emulator.log"
    command = [sys.executable, "-m", "cloudtask.emulator", "--port=0", "--http-port=0"]
    command += [f"--target=http://127.0.0.1:{target_port}"]
    command += [f"--queue={queue}" for queue in QUEUES]
    with running([*command, f"--announce={announcement}"], log) as process:
        wait_for_server(process, announcement.exists, log)
        facts = json.loads(announcement.read_text())
        yield Cloud(
            address=facts["address"],
            issuer=facts["http_address"],
            has_batches=True,
            has_backoff=True,
            refuses_taken_names=True,
        )


@contextmanager
def gcloud_tasks_emulator(folder: Path, target_port: int) -> Iterator[Cloud]:
    """The emulator of PyPI: no tokens, batches, backoff, or de-duplication."""
    python = _other_environment()
    log = folder / "gcloud-tasks-emulator.log"
    command = [python, "-m", "gcloud_tasks_emulator", "start"]
    command += ["--target-host=127.0.0.1", f"--target-port={target_port}"]
    command += [f"--default-queue={queue}" for queue in QUEUES]
    with (
        _reserved_port() as port,
        running([*command, f"--port={port}"], log) as process,
    ):
        wait_for_server(process, lambda: _answers(port), log)
        yield Cloud(
            address=f"127.0.0.1:{port}",
            has_batches=False,
            has_backoff=False,
            refuses_taken_names=False,
        )


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port that no other process gets: it is bound here and never listened on.

    gRPC can share it, because both sides ask for SO_REUSEPORT.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _other_environment() -> Path:
    """Its Python, installed at the first use; skips the test if PyPI can't be had."""
    python = OTHER_FOLDER / "bin" / "python"
    # Another run of the tests may be at it in the same folder.
    with OTHER_FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _imports_other(python):
            _install_other(python)
    return python


def _install_other(python: Path) -> None:
    made = [sys.executable, "-m", "venv", "--clear", str(OTHER_FOLDER)]
    subprocess.run(made, check=True)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*install, *OTHER_REQUIREMENTS], capture_output=True, text=True, check=False
    )
    # The text that pip prints for each try that reached no server.
    if installed.returncode and "connection broken by" in installed.stderr:
        pytest.skip(f"PyPI can't be reached, so {OTHER} can't be installed.")
    assert installed.returncode == 0, installed.stderr


def _imports_other(python: Path) -> bool:
    if not python.exists():
        return False
    command = [python, "-c", "import gcloud_tasks_emulator.server"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
