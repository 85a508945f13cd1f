"""manage.py cloudtask_outbox: list, release and discard messages of the outbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.options import nearest
from cloudtask.sending import relay, waiting

_COLUMNS = ("database", "key", "task", "queue", "state", "created", "tries", "error")
_KEY = "key of a parked message"


class Command(BaseCommand):
    help = "List what waits in the outbox, and release or discard parked messages."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list messages, the oldest first")
        listing.add_argument("--parked", action="store_true", help="only parked ones")
        listing.add_argument(
            "--limit", type=int, default=50, help="most messages to list (default: 50)"
        )
        releasing = verbs.add_parser("release", help="let the relay try again")
        releasing.add_argument("keys", nargs="*", metavar="KEY", help=_KEY)
        releasing.add_argument("--error", help="all whose error begins so")
        releasing.add_argument("--all", action="store_true", help="every parked one")
        discarding = verbs.add_parser("discard", help="delete a parked message")
        discarding.add_argument("keys", nargs="+", metavar="KEY", help=_KEY)
        discarding.add_argument("--yes", action="store_true", help="do not ask")
        for added in verbs.choices.values():
            added.add_argument("--database", help="an alias (default: all)")
            printing.add_json(added)
            printing.add_common(added, parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["database"]
        if alias is not None and alias not in connections:
            raise CommandError(
                f"There is no database {alias!r}; {nearest(alias, connections)}"
            )
        verb: Callable[[list[str], dict[str, Any]], None]
        verb = getattr(self, "_" + options["verb"])
        verb([alias] if alias else waiting.aliases(), options)

    def _list(self, aliases: list[str], options: dict[str, Any]) -> None:
        rows = []
        for alias in aliases:
            for parked in (True,) if options["parked"] else (True, False):
                page = waiting.page(alias, parked=parked, limit=options["limit"])
                rows += [{"database": alias, **_row(one)} for one in page.items]
        rows = rows[: options["limit"]]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(_COLUMNS, rows))

    def _release(self, aliases: list[str], options: dict[str, Any]) -> None:
        keys, error = options["keys"], options["error"]
        if sum(map(bool, (keys, error, options["all"]))) != 1:
            raise CommandError("Name keys, or give --error TEXT or --all.")
        released = 0
        for alias in aliases:
            if error:
                released += waiting.release_like(alias, error)
            else:
                released += relay.release(alias, keys or None)
        self._say(options, "released", released, len(keys))

    def _discard(self, aliases: list[str], options: dict[str, Any]) -> None:
        keys = options["keys"]
        if not options["yes"]:
            raise CommandError(
                f"{len(keys)} messages would be lost for good: add --yes to confirm."
            )
        discarded = sum(waiting.discard(alias, keys) for alias in aliases)
        self._say(options, "discarded", discarded, len(keys))

    def _say(
        self, options: dict[str, Any], done: str, number: int, wanted: int
    ) -> None:
        row = {done: number}
        self.stdout.write(
            printing.as_json(row) if options["json"] else f"{number} {done}"
        )
        if number < wanted:
            raise CommandError(
                f"{wanted - number} are not parked.", returncode=printing.FAILED
            )


def _row(one: waiting.WaitingRow) -> dict[str, Any]:
    return {
        "key": one.key,
        "task": one.task,
        "queue": one.queue,
        "state": one.state,
        "created": one.created_at,
        "due": one.due_at,
        "tries": one.attempts,
        "error": one.error,
    }
