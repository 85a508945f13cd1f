"""manage.py cloudtask_emulator: run a local Cloud Tasks for this project."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from cloudtask import datastore_emulator
from cloudtask.conf.queues import Queue
from cloudtask.views import development_token


class Command(BaseCommand):
    """Serves the queues of settings.CLOUDTASK, dispatching to runserver's port."""

    help = (
        "Starts a local Google Cloud Tasks with the queues of settings.CLOUDTASK. "
        "Point the application at it with CLOUD_TASKS_EMULATOR_HOST=127.0.0.1:8123."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        _cli().add_arguments(parser)
        parser.add_argument(
            "--with-datastore",
            action="store_true",
            help="start Google's emulator of Datastore, too, on a free port",
        )
        parser.add_argument(
            "--no-tick",
            action="store_true",
            help="don't call the relay of the application each minute",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        cli = _cli()
        options["project"] = options["project"] or _project()
        options["location"] = options["location"] or _setting("LOCATION")
        try:
            chosen = cli.settings_from(
                options,
                self._write,
                queues={"default": {"max_attempts": UNLIMITED}} | _queues(),
                target=f"http://127.0.0.1:{_runserver_port()}",
            )
            notes = []
            if chosen.tick is None and not options["no_tick"]:
                tick, note = _tick(chosen.target)
                chosen, notes = replace(chosen, tick=tick), [note]
            with self._datastore(is_wanted=options["with_datastore"]):
                cli.serve(
                    chosen,
                    self._write,
                    announce=options["announce"],
                    until_stdin_closes=options["until_stdin_closes"],
                    notes=notes,
                )
        except (OSError, ValueError, datastore_emulator.NotInstalled) as error:
            raise CommandError(str(error), returncode=cli.status_of(error)) from error

    @contextmanager
    def _datastore(self, *, is_wanted: bool) -> Iterator[None]:
        """Google's emulator of Datastore, as long as the block."""
        if not is_wanted:
            yield
            return
        running = datastore_emulator.start()
        self._write(
            f"Datastore ({datastore_emulator.KINDS[running.kind].component}) listens: "
            f"export {datastore_emulator.VARIABLE}={running.address}"
        )
        try:
            yield
        finally:
            running.stop()

    def _write(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _tick(target: str) -> tuple[Any, str]:
    """A call of the application's relay each minute, or None if it has no URL; and a
    line that says so."""
    from cloudtask.emulator.dispatch import Tick

    try:
        path = reverse("cloudtask:relay")
        headers = {"Authorization": f"Bearer {development_token()}"}
    except Exception as error:  # noqa: BLE001  the URLconf is the project's code
        return None, f"Schedules are not due here: the relay has no URL ({error})"
    note = f"Schedules and the outbox: {target}{path} is called each minute"
    return Tick(url=f"{target}{path}", headers=headers, quiet=True), note


def _cli() -> ModuleType:
    """The emulator's command line, imported late: it loads gRPC and needs an extra."""
    try:
        from cloudtask.emulator import cli
    except ImportError as error:
        raise CommandError(
            f"{error}. Install what the emulator needs: "
            'pip install "django-cloudtask-defer[emulator]"'
        ) from error
    return cli


# djangae's settings, which are read if CLOUDTASK lacks the key.
_DJANGAE = {
    "PROJECT": "CLOUD_TASKS_PROJECT_ID",
    "LOCATION": "CLOUD_TASKS_LOCATION",
    "QUEUES": "CLOUD_TASKS_QUEUES",
}


def _setting(key: str) -> Any:
    chosen = getattr(settings, "CLOUDTASK", {}).get(key)
    return chosen or getattr(settings, _DJANGAE[key], None)


def _project() -> str | None:
    return _setting("PROJECT") or os.environ.get("GOOGLE_CLOUD_PROJECT")


# As `cloudtask_queues apply` makes them: the `max_attempts` of QUEUES is counted by the
# handler. A queue that gives up by itself drops tasks in silence.
UNLIMITED = -1


def _queues() -> dict[str, Mapping[str, Any]]:
    queues = _setting("QUEUES") or {}
    if not isinstance(queues, Mapping):
        queues = {queue["name"]: {} for queue in queues}
    return {
        part: {
            **{key: value for key, value in (given or {}).items() if key not in OURS},
            "max_attempts": UNLIMITED,
        }
        for name, given in queues.items()
        for part in _parts(name, (given or {}).get("spread", 1))
    }


# Options of QUEUES that no queue of the service has.
OURS = ("managed", "spread")


def _parts(name: str, spread: Any) -> Sequence[str]:
    if not isinstance(spread, int) or spread < 1:
        raise ValueError(f"Queue {name!r}: spread {spread!r} is no number from 1.")
    return Queue(name=name, spread=spread).parts


def _runserver_port() -> str:
    """The default port of this project's own runserver."""
    app: Any = get_commands()["runserver"]
    if not isinstance(app, BaseCommand):
        app = load_command_class(app, "runserver")
    return str(getattr(app, "default_port", "8000"))
