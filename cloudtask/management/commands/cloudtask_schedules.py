"""manage.py cloudtask_schedules: list schedules, switch them, or run one now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.options import nearest
from cloudtask.schedules import Declared, declared, ticking
from cloudtask.schedules.listed import ListedSchedule, listed

_COLUMNS = ("key", "schedule", "enabled", "next", "last", "missed", "skipped")


class Command(BaseCommand):
    help = "List the schedules of tasks, switch one on or off, or run its task now."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="all schedules that the code declares")
        for verb, text in (
            ("enable", "switch on: moments that have passed get no calls"),
            ("disable", "switch off: calls that wait already still run"),
            ("run", "enqueue a call now, besides the times of the schedule"),
        ):
            verbs.add_parser(verb, help=text).add_argument(
                "key", help="key of a schedule, as in the list"
            )
        for added in verbs.choices.values():
            printing.add_json(added)
            printing.add_common(added, parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "list":
            self._list(options)
            return
        one = _found(options["key"])
        act: Callable[[Declared], str] = getattr(self, "_" + options["verb"])
        done = act(one)
        row = {"key": one.key, "result": done}
        text = printing.as_json(row) if options["json"] else f"{one.key}: {done}"
        self.stdout.write(text)

    def _enable(self, one: Declared) -> str:
        ticking.enable(one)
        return "enabled"

    def _disable(self, one: Declared) -> str:
        ticking.disable(one)
        return "disabled"

    def _run(self, one: Declared) -> str:
        return f"enqueued as {ticking.run_now(one).id}"

    def _list(self, options: dict[str, Any]) -> None:
        rows = [_row(one) for one in listed()]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        elif rows:
            self.stdout.write(printing.as_table(_COLUMNS, rows))
        else:
            self.stdout.write("No task has a schedule.")


def _row(one: ListedSchedule) -> dict[str, Any]:
    return {
        "key": one.key,
        "task": one.task,
        "schedule": one.schedule,
        "enabled": one.is_enabled,
        "next": one.next_at,
        "last": one.enqueued_at,
        "missed": one.missed,
        "skipped": one.skipped,
    }


def _found(key: str) -> Declared:
    known = declared()
    if key not in known:
        raise CommandError(
            f"No code declares a schedule {key!r}; {nearest(key, known)}"
        )
    return known[key]
