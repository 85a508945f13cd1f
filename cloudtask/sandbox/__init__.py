"""Runs a local Cloud Tasks emulator with `manage.py`, until the command ends.

In manage.py::

    from cloudtask import sandbox

    with sandbox.emulator():
        execute_from_command_line(sys.argv)

In manage.py the emulator starts only for commands that serve, such as `runserver`.
Another command, for example a relay, would lose its tasks when the emulator ends.

The emulator is a process of its own, so reloads, forks and debuggers of the application
don't affect it. It ends when this process ends or is killed. `runserver` has an
autoreloader, which runs manage.py in two processes: the outer, lasting one starts the
emulator, and the inner one inherits its address.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from cloudtask import datastore_emulator
from cloudtask.development import (
    DEFAULT_URL,
    HOST_VARIABLE,
    HTTP_VARIABLE,
    SERVING,
    TARGET_VARIABLE,
    is_command,
    runserver_url,
)
from cloudtask.sandbox.process import (
    PROJECT_VARIABLE,
    Running,
    set_environment,
    start,
    stop,
    tell_of_taken_port,
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

DEFAULT_DATA = Path(".cloudtask") / "tasks.sqlite3"

# Set by the autoreloaders of Django and Werkzeug in the process that serves. Not
# imported, because Django must not be loaded before the environment is ready.
_RELOADED = ("RUN_MAIN", "WERKZEUG_RUN_MAIN")
# Set by App Engine and Cloud Run, where a local emulator would lose the tasks.
_IN_THE_CLOUD = ("GAE_ENV", "GAE_APPLICATION", "K_SERVICE", "CLOUD_RUN_JOB")

logger = logging.getLogger("cloudtask")


_running: dict[str, Running] = {}


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
    """Run the emulator during a block; yields its address, "host:port".

    In manage.py and django-admin, the emulator starts only if the command is one of
    `commands`; None means always. It never starts on App Engine or Cloud Run. If none
    starts, nothing changes, and the address is `CLOUD_TASKS_EMULATOR_HOST`, or "".

    The default `port` is 8123, or the next free one. The status page and the
    certificates are on the following port. The default `target` is the address of
    `runserver`, from its arguments. The queues of settings.CLOUDTASK are always there.
    `data` is a file that keeps queued tasks.

    Sets `CLOUD_TASKS_EMULATOR_HOST`, `CLOUDTASK_EMULATOR_URL` (the HTTP side, which is
    the issuer of its OIDC tokens), `CLOUDTASK_EMULATOR_TARGET` (to which an HttpTarget
    delivers, whatever its URL), and `GOOGLE_CLOUD_PROJECT` if it is missing. All are
    restored at the end. If the emulator does not start, manage.py and django-admin end
    with the reason. Elsewhere `RuntimeError` is raised, or ConfigurationError if the
    project has not installed the app.
    """
    if not _is_wanted(commands):
        yield os.environ.get(HOST_VARIABLE, "")
        return
    served = runserver_url(sys.argv)
    tell_of_taken_port(served)
    target = target or served or DEFAULT_URL
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
    running, address = _started(port, arguments, project, target)
    try:
        yield address
    finally:
        stop(running)


def start_emulators(
    persist_data: bool = False,
    project_id: str | None = None,
    emulators: Sequence[str] = ("tasks",),
    tasks_port: int | None = None,
    task_target_port: int | None = None,
    task_queue_yaml: str | None = None,
    autodetect_task_port: bool = True,
) -> None:
    """Start the emulator as djangae does, for scripts without a `with` block.

    `emulators` may name "tasks" and "datastore". The second is Google's, and comes with
    the Google Cloud CLI: it sets `DATASTORE_EMULATOR_HOST`, unless that is set already,
    and its data ends with it. With `persist_data`, queued tasks are kept in
    `.cloudtask/tasks.sqlite3`. The emulators start for every command, so call this
    function only for commands that serve. Raises `RuntimeError` on App Engine and Cloud
    Run, if Google's emulator is not installed, and if one does not start.
    """
    if unknown := sorted(set(emulators) - {"tasks", "datastore"}):
        raise ValueError(
            f'Only "tasks" and "datastore" are started here, not {unknown}.'
        )
    variable = _cloud_variable()
    if variable is not None:
        raise RuntimeError(
            f"start_emulators() on App Engine or Cloud Run ({variable} is set): tasks "
            "would be lost with the emulator. Call it for runserver only."
        )
    if _is_reloaded():
        return
    if "datastore" in emulators:
        _start_datastore(project_id)
    if "tasks" not in emulators or "tasks" in _running:
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
    _running["tasks"], _ = _started(tasks_port, arguments, project_id, target)


def _started(
    port: int | None, arguments: list[str], project: str | None, target: str
) -> tuple[Running, str]:
    """As `start` does. In manage.py a failure ends the program without a traceback,
    which would hide what the emulator has printed."""
    try:
        return start(port, arguments, project, target)
    except (RuntimeError, ImproperlyConfigured) as error:
        if _is_management(sys.argv):
            raise SystemExit(str(error)) from None
        raise


def _start_datastore(project: str | None) -> None:
    if "datastore" in _running or os.environ.get(datastore_emulator.VARIABLE):
        return
    started = datastore_emulator.start()
    running = Running(started.process)
    _running["datastore"] = running
    set_environment(
        running,
        {
            datastore_emulator.VARIABLE: started.address,
            PROJECT_VARIABLE: os.environ.get(PROJECT_VARIABLE) or project or "local",
        },
    )


def stop_emulators(emulators: Sequence[str] | None = None) -> None:
    """End the emulators of `start_emulators`; it is no error if none runs."""
    for name in list(_running):
        if emulators is None or name in emulators:
            stop(_running.pop(name))


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
    """Whether a management command runs that is none of `commands`.

    A script or a test that calls for an emulator always gets one.
    """
    return _is_management(argv) and not is_command(argv, commands)


def _is_management(argv: Sequence[str]) -> bool:
    program = Path(argv[0] if argv else "")
    return program.name in ("manage.py", "django-admin") or (
        program.parts[-2:] == ("django", "__main__.py")
    )


def _is_reloaded() -> bool:
    return any(os.environ.get(name) == "true" for name in _RELOADED)


def _cloud_variable() -> str | None:
    return next((name for name in _IN_THE_CLOUD if os.environ.get(name)), None)


def _arguments(*options: tuple[str, object]) -> list[str]:
    """Options as a command line; True makes a flag, None and False are left out."""
    arguments = []
    for name, value in options:
        if value is True:
            arguments.append(name)
        elif value is not None and value is not False:
            arguments += [name, str(value)]
    return arguments
