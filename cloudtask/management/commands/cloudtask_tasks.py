"""manage.py cloudtask_tasks: list the tasks of the project."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask.dashboard.known import known_tasks
from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.stores import store

GROUPS = 500

_COLUMNS = ("task", "queue", "failed", "options", "note")


class Command(BaseCommand):
    help = "List the tasks of the project, and names of failed tasks that none has."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the tasks by name")
        listing.add_argument(
            "--unknown",
            action="store_true",
            help="only names that no task has; exit status 3 if there are any",
        )
        printing.add_json(listing)
        printing.add_common(listing, parser)

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        failed: dict[str, int] = {}
        for group in store().failed_groups(limit=GROUPS):
            failed[group.task] = failed.get(group.task, 0) + group.number
        found = known_tasks(failed)
        if options["unknown"]:
            found = [one for one in found if one.is_unknown]
        rows = [
            {
                "task": one.path,
                "queue": one.queue,
                "failed": one.failed,
                "options": ", ".join(f"{n}={v}" for n, v in one.options.items()),
                "note": "unknown to this version" if one.is_unknown else "",
            }
            for one in found
        ]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(_COLUMNS, rows))
        if options["unknown"] and rows:
            raise SystemExit(printing.FOUND)
