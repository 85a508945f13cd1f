"""A local Cloud Tasks beside `manage.py`, for as long as the command runs.

In manage.py::

    from cloudtask import sandbox

    with sandbox.emulator():
        execute_from_command_line(sys.argv)

In manage.py it is started for commands that serve: `runserver`. Others, and a relay
above all, would only hand tasks to an emulator that ends with the command.

The emulator is a process of its own, so that reloads, forks and debuggers of the
application don't touch it; it ends with this one, however this one ends. Under
`runserver` the autoreloader runs manage.py twice: only the outer, lasting process
starts an emulator, the inner one inherits its address.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloudtask.development import (
    DEFAULT_URL,
    HOST_VARIABLE,
    HTTP_VARIABLE,
    SERVING,
    TARGET_VARIABLE,
    is_command,
    runserver_url,
)

__all__ = [
    "HOST_VARIABLE",
    "HTTP_VARIABLE",
    "PROJECT_VARIABLE",
    "SERVING",
    "TARGET_VARIABLE",
    "emulator",
    "runserver_port",
    "start_emulators",
    "stop_emulators",
]

PROJECT_VARIABLE = "GOOGLE_CLOUD_PROJECT"
DEFAULT_PORT = 8123
DEFAULT_DATA = Path(".cloudtask") / "tasks.sqlite3"

# Set by the autoreloaders of Django and Werkzeug in the process that serves; not
# imported from there, as Django must not be loaded before the environment is ready.
_RELOADED = ("RUN_MAIN", "WERKZEUG_RUN_MAIN")
# Set by App Engine and Cloud Run, where a local emulator would swallow the tasks.
_IN_THE_CLOUD = ("GAE_ENV", "GAE_APPLICATION", "K_SERVICE", "CLOUD_RUN_JOB")
# What the extra "emulator" brings.
_NEEDED = ("aiohttp", "cryptography", "yaml")
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0

logger = logging.getLogger("cloudtask")


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    environment: dict[str, str | None] = field(default_factory=dict)


_running: dict[str, _Running] = {}


@contextlib.contextmanager
def emulator(
    *,
    commands: Collection[str] | None = SERVING,
    port: int | None = None,
    target: str | None = None,
    queues: Sequence[str] = (),
    queue_yaml: str | Path | None = None,
    data: str | Path | None = None,
    chaos: str | None = None,
    rate_limits: bool = True,
    project: str | None = None,
    quiet: bool = False,
) -> Iterator[str]:
    """Run the emulator around a block; gives its address, "host:port".

    In manage.py and django-admin, only if the command is one of `commands`; None means
    always. Never on App Engine or Cloud Run. Where none is started, nothing is changed,
    and the address is that of `CLOUD_TASKS_EMULATOR_HOST`, or "".

    `port` is 8123, or the next free one when it is taken and not given; the status page
    and the certificates are on the port after it. `target` is where `runserver` will
    listen, as its arguments say. The queues of settings.CLOUDTASK come by themselves.
    `data` keeps queued tasks in a file.

    Sets `CLOUD_TASKS_EMULATOR_HOST`, `CLOUDTASK_EMULATOR_URL` (the HTTP side, which is
    the issuer of its OIDC tokens), `CLOUDTASK_EMULATOR_TARGET` (to which an HttpTarget
    delivers, whatever its URL), and `GOOGLE_CLOUD_PROJECT` where it is missing. All are
    put back at the end. Raises `RuntimeError` if the emulator does not start.
    """
    if not _is_wanted(commands):
        yield os.environ.get(HOST_VARIABLE, "")
        return
    target = target or runserver_url(sys.argv) or DEFAULT_URL
    arguments = _arguments(
        ("--target", target),
        *(("--queue", name) for name in queues),
        ("--queue-yaml", queue_yaml),
        ("--data", data),
        ("--chaos", chaos),
        ("--project", project),
        ("--no-rate-limits", not rate_limits),
        ("--quiet", quiet),
    )
    running, address = _start(port, arguments, project, target)
    try:
        yield address
    finally:
        _stop(running)


def start_emulators(
    persist_data: bool = False,
    project_id: str | None = None,
    emulators: Sequence[str] = ("tasks",),
    tasks_port: int | None = None,
    task_target_port: int | None = None,
    task_queue_yaml: str | None = None,
    autodetect_task_port: bool = True,
) -> None:
    """djangae's way to start it, for scripts without a `with`; see `emulator`.

    Only "tasks" can be asked for: Google's own emulators cover Datastore and Storage.
    With `persist_data` queued tasks are kept in `.cloudtask/tasks.sqlite3`. Starts it
    whatever the command is: call it for those that serve. Raises `RuntimeError` on App
    Engine and Cloud Run, and if it does not start.
    """
    if list(emulators) != ["tasks"]:
        raise ValueError(f'Only the emulator "tasks" is started here, not {emulators}.')
    variable = _cloud_variable()
    if variable is not None:
        raise RuntimeError(
            f"start_emulators() on App Engine or Cloud Run ({variable} is set): tasks "
            "would be lost with the emulator. Call it for runserver only."
        )
    if _is_reloaded() or "tasks" in _running:
        return
    argv = sys.argv if autodetect_task_port else []
    target = f"http://127.0.0.1:{task_target_port or runserver_port(argv)}"
    if persist_data:
        DEFAULT_DATA.parent.mkdir(exist_ok=True)
    arguments = _arguments(
        ("--target", target),
        ("--queue-yaml", task_queue_yaml),
        ("--project", project_id),
        ("--data", DEFAULT_DATA if persist_data else None),
    )
    _running["tasks"], _ = _start(tasks_port, arguments, project_id, target)


def stop_emulators(emulators: Sequence[str] | None = None) -> None:
    """End what `start_emulators` started; nothing is an error."""
    for name in list(_running):
        if emulators is None or name in emulators:
            _stop(_running.pop(name))


def runserver_port(argv: Sequence[str]) -> int:
    """The port that `manage.py runserver ...` will use; 8000 for other commands."""
    return int((runserver_url(argv) or DEFAULT_URL).rpartition(":")[2])


def _is_wanted(commands: Collection[str] | None) -> bool:
    if commands is not None and _is_other_command(sys.argv, commands):
        return False
    variable = _cloud_variable()
    if variable is not None:
        logger.info(
            "No Cloud Tasks emulator on App Engine or Cloud Run: %s is set.", variable
        )
        return False
    return not _is_reloaded()


def _is_other_command(argv: Sequence[str], commands: Collection[str]) -> bool:
    """Whether a management command runs that is none of `commands`. A script or a test
    that asks for an emulator wants one."""
    program = Path(argv[0] if argv else "")
    is_management = program.name in ("manage.py", "django-admin") or (
        program.parts[-2:] == ("django", "__main__.py")
    )
    return is_management and not is_command(argv, commands)


def _is_reloaded() -> bool:
    return any(os.environ.get(name) == "true" for name in _RELOADED)


def _cloud_variable() -> str | None:
    return next((name for name in _IN_THE_CLOUD if os.environ.get(name)), None)


def _arguments(*options: tuple[str, object]) -> list[str]:
    """Options as a command line; True is a flag, None and False are left out."""
    arguments = []
    for name, value in options:
        if value is True:
            arguments.append(name)
        elif value is not None and value is not False:
            arguments += [name, str(value)]
    return arguments


def _start(
    port: int | None, arguments: list[str], project: str | None, target: str
) -> tuple[_Running, str]:
    """Start the emulator, and let the environment of this process name it."""
    _check_installed()
    chosen = _free_port() if port is None else port
    running, facts = _launched([*arguments, f"--port={chosen}"])
    chosen_environment = {
        HOST_VARIABLE: facts["address"],
        HTTP_VARIABLE: facts["http_address"],
        TARGET_VARIABLE: target,
        PROJECT_VARIABLE: os.environ.get(PROJECT_VARIABLE) or project or "local",
    }
    running.environment = {name: os.environ.get(name) for name in chosen_environment}
    os.environ.update(chosen_environment)
    return running, facts["address"]


def _check_installed() -> None:
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise RuntimeError(
                f"No module named {name!r}. Install what the emulator needs: "
                'pip install "django-cloudtask-defer[emulator]"'
            )


def _launched(arguments: list[str]) -> tuple[_Running, dict[str, str]]:
    """The process of the emulator, and the addresses that it announced."""
    with tempfile.TemporaryDirectory() as folder:
        announcement = Path(folder) / "ready.json"
        arguments += [f"--announce={announcement}", "--until-stdin-closes"]
        process = subprocess.Popen(  # noqa: S603 - this Python, options from manage.py
            [*_program(), *arguments],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _python_path()},
        )
        running = _Running(process)
        try:
            return running, _announced(process, announcement)
        except BaseException:
            _stop(running)
            raise


def _program() -> list[str]:
    """With settings the management command, which knows the project's queues."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return [sys.executable, "-m", "django", "cloudtask_emulator"]
    return [sys.executable, "-m", "cloudtask.emulator"]


def _python_path() -> str:
    """The directory of manage.py is on our path, but not on that of `-m django`."""
    return os.pathsep.join(path for path in sys.path if path)


def _free_port() -> int:
    """The first port from 8123 that is free together with the next one."""
    for port in range(DEFAULT_PORT, DEFAULT_PORT + 100, 2):
        if _is_free(port) and _is_free(port + 1):
            return port
    return 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _announced(process: subprocess.Popen[bytes], path: Path) -> dict[str, str]:
    give_up = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < give_up:
        if path.exists():
            facts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return facts
        if process.poll() is not None:
            raise RuntimeError(
                f"The Cloud Tasks emulator ended with status {process.returncode}; "
                "what it wrote says why."
            )
        time.sleep(0.02)
    raise RuntimeError(
        f"The Cloud Tasks emulator did not start in {_START_TIMEOUT:g} s."
    )


def _stop(running: _Running) -> None:
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
