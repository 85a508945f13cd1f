"""manage.py cloudtask_schedules: list schedules, switch them, or run one now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask import clock
from cloudtask.discretion import discreet
from cloudtask.options import nearest
from cloudtask.schedules import Declared, declared, ticking

AHEAD = timedelta(days=400)  # in which the next moment is looked for


class Command(BaseCommand):
    help = "List the schedules of tasks, switch one on or off, or run its task now."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="all schedules that the code declares")
        for verb, text in (
            ("enable", "switch on: what was due meanwhile is not made up for"),
            ("disable", "switch off: calls that wait already still run"),
            ("run", "enqueue a call now, besides the times of the schedule"),
        ):
            verbs.add_parser(verb, help=text).add_argument("key")

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "list":
            self._list()
            return
        one = _found(options["key"])
        act: Callable[[Declared], str] = getattr(self, "_" + options["verb"])
        self.stdout.write(f"{one.key}: {act(one)}")

    def _enable(self, one: Declared) -> str:
        ticking.enable(one)
        return "enabled"

    def _disable(self, one: Declared) -> str:
        ticking.disable(one)
        return "disabled"

    def _run(self, one: Declared) -> str:
        return f"enqueued as {ticking.run_now(one).id}"

    def _list(self) -> None:
        found = declared().values()
        if not found:
            self.stdout.write("No task has a schedule.")
        for one in found:
            self.stdout.write(f"{one.key}: {one.text}, {_state(one)}")


def _state(one: Declared) -> str:
    row = ticking.rows_of(one.definition.options.database).filter(key=one.key).first()
    is_enabled = one.is_enabled if row is None else row.enabled
    if not is_enabled:
        return "disabled"
    now = datetime.fromtimestamp(clock.now(), UTC)
    following = one.next_after(now, now + AHEAD)
    missed = f", {row.missed} missed" if row and row.missed else ""
    when = f"{following:%Y-%m-%d %H:%M:%S} UTC" if following else "not within a year"
    return f"next {when}{missed}"


def _found(key: str) -> Declared:
    known = declared()
    if key not in known:
        raise CommandError(
            f"No code declares a schedule {key!r}; {nearest(key, known)}"
        )
    return known[key]
