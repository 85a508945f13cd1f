"""Finds and starts Google's emulators of Datastore, which the Google Cloud CLI brings.

"firestore" is Firestore's emulator in Datastore mode, which is how new databases work.
"datastore" is the older Datastore emulator. Both are Java programs. They are started
directly, because `gcloud` takes seconds to do it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "DATASTORE_EMULATOR_HOST"
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 10.0
STARTS = 3  # another process may take the free port first

# Runs a command until it ends, or until the other end of stdin closes.
_UNTIL_STDIN_CLOSES = """
import subprocess, sys, threading
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
wait = lambda: (sys.stdin.read(), process.terminate())
threading.Thread(target=wait, daemon=True).start()
sys.exit(process.wait())
"""


class NotInstalled(RuntimeError):
    """The emulator is missing; the text says how to install it."""


@dataclass(frozen=True, slots=True)
class _Kind:
    component: str
    package: str
    jar: str
    main: str
    options: tuple[str, ...]
    has_folder: bool = False


KINDS = {
    "firestore": _Kind(
        "cloud-firestore-emulator",
        "google-cloud-cli-firestore-emulator",
        "cloud-firestore-emulator.jar",
        "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
        ("--database-mode=datastore-mode",),
    ),
    "datastore": _Kind(
        "cloud-datastore-emulator",
        "google-cloud-cli-datastore-emulator",
        "CloudDatastore.jar",
        "com.google.cloud.datastore.emulator.CloudDatastore",
        # Its queries would else miss one recent write in ten.
        ("--store_on_disk=False", "--consistency=1.0"),
        has_folder=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Running:
    """An emulator; it also ends when this process ends or is killed."""

    kind: str
    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def installed() -> list[str]:
    """The kinds of emulators that can be started here, the preferred one first."""
    return [kind for kind in KINDS if why_not_installed(kind) is None]


def why_not_installed(kind: str) -> str | None:
    """What is missing for an emulator, and how to install it; None if nothing is."""
    made = KINDS[kind]
    folder = _folder()
    if folder is None:
        return (
            "Google's emulators of Datastore come with the Google Cloud CLI, which was "
            "not found: install it (https://cloud.google.com/sdk/docs/install), then "
            f"run `gcloud components install {made.component}`."
        )
    if not (folder / made.component / made.jar).exists():
        return (
            f"The {made.component} was not found beside the Google Cloud CLI: run "
            f"`gcloud components install {made.component}`, or "
            f"`apt-get install {made.package}`."
        )
    if shutil.which("java") is None:
        return f"The {made.component} needs Java 11 or newer, which was not found."
    return None


def start(kind: str | None = None, *, port: int = 0, quiet: bool = True) -> Running:
    """Start an emulator on 127.0.0.1, and return when it answers.

    Without a `kind`, the first of KINDS that is installed. Data lives in its memory.
    Raises NotInstalled, and RuntimeError if it does not start.
    """
    kind = kind or next(iter(installed()), "firestore")
    if problem := why_not_installed(kind):
        raise NotInstalled(problem)
    for _ in range(1 if port else STARTS):
        running = _launched(kind, port or _free_port(), quiet=quiet)
        if _answers(running):
            return running
        running.stop()
    raise RuntimeError(
        f"Google's emulator {KINDS[kind].component} did not start"
        + (f" on port {port}." if port else ".")
    )


def _folder() -> Path | None:
    """The folder of the emulators that `gcloud` installs."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    folder = Path(gcloud).resolve().parent.parent / "platform"
    return folder if folder.is_dir() else _told_folder(gcloud)


def _told_folder(gcloud: str) -> Path | None:
    """The same, as `gcloud` tells it: its command may be a link of another kind."""
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    told = subprocess.run(  # noqa: S603 - a fixed command
        command, capture_output=True, text=True, check=False
    )
    root = told.stdout.strip()
    return Path(root) / "platform" if root else None


def _launched(kind: str, port: int, *, quiet: bool) -> Running:
    made = KINDS[kind]
    jar = (_folder() or Path()) / made.component / made.jar
    java = ["java", "-Duser.language=en", "-cp", str(jar), made.main, "start"]
    options = ["--host=127.0.0.1", f"--port={port}", *made.options]
    if made.has_folder:
        options.append(tempfile.mkdtemp(prefix="cloudtask-datastore-"))
    process = _until_this_process_ends([*java, *options], quiet=quiet)
    return Running(kind, f"127.0.0.1:{port}", process)


def _until_this_process_ends(
    command: Sequence[str], *, quiet: bool
) -> subprocess.Popen[bytes]:
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(  # noqa: S603 - Java, with options from here
        [sys.executable, "-c", _UNTIL_STDIN_CLOSES, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        # Ctrl-C is for this process, which then ends the emulator.
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _answers(running: Running) -> bool:
    """Wait until the emulator answers; False if it has ended."""
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up and running.process.poll() is None:
        try:
            url = f"http://{running.address}/"
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return True
        except OSError:
            time.sleep(0.1)
    return False
