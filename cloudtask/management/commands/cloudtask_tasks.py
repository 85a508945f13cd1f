"""manage.py cloudtask_tasks: list the tasks of the project."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask.dashboard.known import known_tasks
from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.sending import waiting
from cloudtask.stores import store

GROUPS = 500  # of failed tasks
ROWS = 10_000  # of each outbox

_COLUMNS = ("task", "queue", "failed", "in outbox", "options", "note")
_LOOKED_AT = (
    f"Looked at {GROUPS} groups of failed tasks and {ROWS:,} messages of each outbox. "
    "`manage.py cloudtask_doctor --only names` also looks at queues and iterations."
)


class Command(BaseCommand):
    help = (
        "List the tasks of the project, and names that none has in failed tasks and "
        "in the outboxes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the tasks by name")
        listing.add_argument(
            "--unknown",
            action="store_true",
            help="only names in failed tasks and in the outboxes that no task has; "
            "exit status 3 if there are any",
        )
        printing.add_json(listing)
        printing.add_common(listing, parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        failed, waits = store().failed_by_task(GROUPS), Counter[str]()
        for alias in waiting.aliases():
            waits += waiting.tasks_in(alias, ROWS)
        found = known_tasks(failed, waits)
        if options["unknown"]:
            found = [one for one in found if one.is_unknown]
        rows = [
            {
                "task": one.path,
                "queue": one.queue,
                "failed": one.failed,
                "in outbox": one.waiting,
                "options": ", ".join(f"{n}={v}" for n, v in one.options.items()),
                "note": "unknown to this version" if one.is_unknown else "",
            }
            for one in found
        ]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            if rows or not options["unknown"]:
                self.stdout.write(printing.as_table(_COLUMNS, rows))
            else:
                self.stdout.write("Every name that was found is that of a task.")
            if options["unknown"]:
                self.stdout.write(_LOOKED_AT)
        if options["unknown"] and rows:
            raise SystemExit(printing.FOUND)
