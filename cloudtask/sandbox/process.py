"""The process of a local emulator: its port, its start, its environment, its end."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cloudtask.development import HOST_VARIABLE, HTTP_VARIABLE, TARGET_VARIABLE

PROJECT_VARIABLE = "GOOGLE_CLOUD_PROJECT"
DEFAULT_PORT = 8123
PORT_TAKEN = 3  # the status with which an emulator ends whose port is in use
APP_MISSING = 4  # and one whose project has not installed the app

# Modules that the extra "emulator" installs.
_NEEDED = ("aiohttp", "cryptography", "yaml")
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0

logger = logging.getLogger("cloudtask")


class _Ended(RuntimeError):
    """The emulator ended with `status` before it was ready."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(
            f"The Cloud Tasks emulator ended with status {status}; its output has the "
            "reason."
        )

    def raised(self) -> Exception:
        """The error for users; it names the reason if the status does."""
        if self.status != APP_MISSING:
            return self
        from cloudtask.exceptions import INSTALL, NOT_INSTALLED, ConfigurationError

        return ConfigurationError(f"{NOT_INSTALLED} {INSTALL}")


@dataclass
class Running:
    """A process, and what the environment held before its variables were set."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str | None] = field(default_factory=dict)


def start(
    port: int | None, arguments: list[str], project: str | None, target: str
) -> tuple[Running, str]:
    """Start the emulator, and set its addresses in the environment.

    Returns its address, "host:port", beside it. Raises `RuntimeError` if what it needs
    is not installed, or if it does not start; ConfigurationError if the project has not
    installed the app.
    """
    _check_installed()
    try:
        running, facts = _launched_at(port, arguments)
    except _Ended as error:
        raise error.raised() from None
    chosen_environment = {
        HOST_VARIABLE: facts["address"],
        HTTP_VARIABLE: facts["http_address"],
        TARGET_VARIABLE: target,
        PROJECT_VARIABLE: os.environ.get(PROJECT_VARIABLE) or project or "local",
    }
    set_environment(running, chosen_environment)
    return running, facts["address"]


def set_environment(running: Running, chosen: dict[str, str]) -> None:
    """Set variables until the emulator is stopped."""
    running.environment = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)


def _check_installed() -> None:
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise RuntimeError(
                f"No module named {name!r}. Install what the emulator needs: "
                'pip install "django-cloudtask-defer[emulator]"'
            )


def _launched_at(
    port: int | None, arguments: list[str]
) -> tuple[Running, dict[str, str]]:
    """The process at `port`; None takes a free one, and another if that is lost."""
    if port is not None:
        return _launched([*arguments, f"--port={port}"])
    while True:
        chosen = _free_port()
        try:
            return _launched([*arguments, f"--port={chosen}"])
        except _Ended as error:
            # Another program may have taken the port since the look.
            if error.status != PORT_TAKEN:
                raise


def _launched(arguments: list[str]) -> tuple[Running, dict[str, str]]:
    """The process of the emulator, and the addresses that it announced."""
    with tempfile.TemporaryDirectory() as folder:
        announcement = Path(folder) / "ready.json"
        arguments += [f"--announce={announcement}", "--until-stdin-closes"]
        process = subprocess.Popen(  # noqa: S603 - this Python, options from manage.py
            [*_program(), *arguments],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _python_path()},
        )
        running = Running(process)
        try:
            return running, _announced(process, announcement)
        except BaseException:
            stop(running)
            raise


def _program() -> list[str]:
    """The command line; with settings, the command that knows the project's queues."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return [sys.executable, "-m", "cloudtask.sandbox", "cloudtask_emulator"]
    return [sys.executable, "-m", "cloudtask.emulator"]


def _python_path() -> str:
    """Our path for the child: `-m` would lack the directory of manage.py."""
    return os.pathsep.join(path for path in sys.path if path)


def _free_port() -> int:
    """The first port from 8123 that is free together with the next one."""
    for port in range(DEFAULT_PORT, DEFAULT_PORT + 100, 2):
        if _are_free(port):
            return port
    return 0


def _are_free(port: int) -> bool:
    """Whether the emulator can have `port` and the next one; 0 stands for any."""
    return port == 0 or (_is_free(port) and _is_free(port + 1))


def _is_free(port: int, host: str = "127.0.0.1") -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def tell_of_taken_port(served: str | None) -> None:
    """Say which port is in use: the error of runserver names none."""
    found = urlsplit(served or "")
    port, host = found.port, found.hostname
    if port and host and not _is_free(port, host):
        logger.warning(
            f"Port {port} of {host} is in use, and `manage.py {sys.argv[1]}` needs it. "
            "Tasks would go to the program that has the port."
        )


def _announced(process: subprocess.Popen[bytes], path: Path) -> dict[str, str]:
    give_up = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < give_up:
        if path.exists():
            facts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return facts
        if process.poll() is not None:
            raise _Ended(process.returncode)
        time.sleep(0.02)
    raise RuntimeError(
        f"The Cloud Tasks emulator did not start in {_START_TIMEOUT:g} s."
    )


def stop(running: Running) -> None:
    """End the emulator, and put the environment back."""
    for name, value in running.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    process = running.process
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
