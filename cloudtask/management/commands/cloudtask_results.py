"""manage.py cloudtask_results: list the results of tasks, and show one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask.dashboard import kept
from cloudtask.discretion import discreet, printable
from cloudtask.management import printing
from cloudtask.options import nearest

PAGE = 100

_COLUMNS = ("id", "task", "status", "queue", "enqueued_at", "finished_at", "place")


class Command(BaseCommand):
    help = (
        "List results of django.tasks, and of tasks with keep_result. Their values are "
        "not shown."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the latest, newest first")
        listing.add_argument(
            "--status", choices=kept.STATUSES, help="only results with this status"
        )
        listing.add_argument("--task", help="only results of this task")
        listing.add_argument(
            "--limit", type=int, default=50, help="most results to list (default: 50)"
        )
        listing.add_argument("--database", help='an alias, or "store" (default: all)')
        show = verbs.add_parser(
            "show", help="show one; the beginning of its id will do"
        )
        show.add_argument("id", metavar="ID", help="id of a receipt, or its beginning")
        for added in verbs.choices.values():
            printing.add_json(added)
            printing.add_common(added, parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "show":
            self._show(options)
        else:
            self._list(options)

    def _list(self, options: dict[str, Any]) -> None:
        place, known = options["database"], kept.places()
        if place is not None and place not in known:
            raise CommandError(f"No results are in {place!r}; {nearest(place, known)}")
        found = [
            asdict(one)
            for each in ([place] if place else known)
            for one in _found(each, options)
        ]
        found.sort(key=lambda row: row["enqueued_at"], reverse=True)
        rows = found[: options["limit"]]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(_COLUMNS, rows))

    def _show(self, options: dict[str, Any]) -> None:
        found = kept.find(options["id"])
        if found is None:
            keys = kept.keys_beginning(options["id"], 2) if options["id"] else ()
            if len(keys) > 1:
                raise CommandError(f"Several results begin with {options['id']!r}.")
            found = kept.find(keys[0]) if keys else None
        if found is None:
            raise CommandError(
                f"There is no result {options['id']!r}.", returncode=printing.FAILED
            )
        row = asdict(found)
        if options["json"]:
            self.stdout.write(printing.as_json(row))
            return
        for name, value in row.items():
            if value not in (None, ""):
                self.stdout.write(f"{name}: {printable(str(value))}")


def _found(place: str, options: dict[str, Any]) -> list[kept.KeptResult]:
    """Up to `--limit` results of a place, read page by page."""
    found: list[kept.KeptResult] = []
    mark = None
    while len(found) < options["limit"]:
        page = kept.page(
            place,
            status=options["status"],
            task=options["task"],
            before=mark,
            limit=min(PAGE, options["limit"] - len(found)),
        )
        found += page.items
        if (mark := page.next) is None:
            break
    return found
