"""manage.py cloudtask_failed: list, show, retry and discard failed tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask import clock
from cloudtask.delivering import bulk
from cloudtask.discretion import discreet, printable
from cloudtask.exceptions import CloudTaskError
from cloudtask.management import printing
from cloudtask.options import as_timedelta
from cloudtask.stores import FailedCall, store
from cloudtask.stores.failed import FailedFilter

NEWLINE = "\n"
FULL_KEY = 32  # characters
GROUPS = 100
_KEY = "key of a failed task, or its beginning"

_LISTED = ("key", "task", "queue", "kind", "error", "attempts")
_GROUPS = {
    "error": ("task", "kind", "number", "first_at", "last_at", "error"),
    "task": ("task", "number"),
}


class Command(BaseCommand):
    help = "List, show, retry and discard tasks that will not be tried again."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the latest, newest first")
        listing.add_argument(
            "--limit", type=int, default=50, help="most tasks to list (default: 50)"
        )
        listing.add_argument(
            "--group-by", choices=_GROUPS, help="count those that failed alike"
        )
        verbs.add_parser("show", help="show arguments and traceback").add_argument(
            "keys", nargs="+", metavar="KEY", help=_KEY
        )
        for verb, what in (
            ("retry", "enqueue again"),
            ("discard", "delete, with the payload"),
        ):
            chosen = verbs.add_parser(verb, help=what)
            chosen.add_argument("keys", nargs="*", metavar="KEY", help=_KEY)
            chosen.add_argument("--all", action="store_true", help="every failed task")
            chosen.add_argument(
                "--dry-run", action="store_true", help="only say what would be done"
            )
            chosen.add_argument("--yes", action="store_true", help="do not ask")
        for name, added in verbs.choices.items():
            if name != "show":
                _add_filters(added)
            printing.add_json(added)
            printing.add_common(added, parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        verb: Callable[[dict[str, Any]], None] = getattr(self, "_" + options["verb"])
        verb(options)

    def _list(self, options: dict[str, Any]) -> None:
        if options["group_by"]:
            self._list_groups(options)
            return
        found = list(islice(bulk.each(_wanted(options)), max(0, options["limit"])))
        if options["json"]:
            for one in found:
                row = {name: getattr(one, name) for name in _LISTED}
                row["failed_at"] = one.failed_at
                self.stdout.write(printing.as_json(row))
            return
        if not found:
            self.stdout.write(_nothing(options))
        for one in found:
            line = (
                f"{one.key}  {_moment(one)}  {one.task} on {one.queue}, "
                f"{one.attempts} attempts: {one.error.partition(NEWLINE)[0]}"
            )
            self.stdout.write(printable(line))

    def _list_groups(self, options: dict[str, Any]) -> None:
        columns = _GROUPS[options["group_by"]]
        groups = store().failed_groups(_wanted(options), limit=GROUPS)
        rows = [{name: getattr(one, name) for name in columns} for one in groups]
        if options["group_by"] == "task":
            numbers: dict[str, int] = {}
            for one in groups:
                numbers[one.task] = numbers.get(one.task, 0) + one.number
            rows = [{"task": task, "number": n} for task, n in numbers.items()]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(columns, rows))

    def _show(self, options: dict[str, Any]) -> None:
        for key in map(_full_key, options["keys"]):
            one = store().load_failed(key)
            if one is None:
                raise CommandError(f"There is no failed task {key!r}.")
            if options["json"]:
                names = (*_LISTED, "arguments", "traceback", "enqueued_at", "failed_at")
                row = {name: getattr(one, name) for name in names}
                self.stdout.write(printing.as_json(row))
                continue
            lines = (
                one.key,
                f"  task: {one.task}",
                f"  queue: {one.queue}",
                f"  name: {one.name}",
                f"  attempts: {one.attempts}",
                f"  enqueued: {one.enqueued_at}",
                f"  failed: {_moment(one)}",
                f"  arguments: {one.arguments}",
                "",
            )
            shown = NEWLINE.join(map(printable, lines))
            self.stdout.write(f"{shown}\n{_lines(one.traceback)}")

    def _retry(self, options: dict[str, Any]) -> None:
        self._each(options, bulk.retry)

    def _discard(self, options: dict[str, Any]) -> None:
        self._each(options, bulk.discard)

    def _each(self, options: dict[str, Any], act: Callable[[str], str]) -> None:
        """Call `act` for every chosen key, even if it failed for an earlier one."""
        problems = 0
        keys = self._chosen(options)
        if options["dry_run"]:
            self.stdout.write(f"{len(keys):,} failed tasks are meant. Nothing is done.")
            return
        self._ask(options, len(keys))
        for key in keys:
            try:
                text = act(key)
            except CloudTaskError as error:
                problems += 1
                self.stderr.write(printable(f"{key}: {error}"))
            else:
                row = {"key": key, "result": text}
                plain = printable(f"{key}: {text}")
                self.stdout.write(printing.as_json(row) if options["json"] else plain)
        if problems:
            raise CommandError(f"{problems} failed.", returncode=printing.FAILED)

    def _ask(self, options: dict[str, Any], number: int) -> None:
        """Let a person at a terminal confirm what was not named key by key."""
        is_sure = options["yes"] or options["keys"] or not number
        if is_sure or not sys.stdin.isatty() or not self.stdout.isatty():
            return
        given = input(f"{options['verb'].capitalize()} {number:,} failed tasks? [y/N] ")
        if given.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing is done.", returncode=printing.FAILED)

    def _chosen(self, options: dict[str, Any]) -> list[str]:
        if options["keys"]:
            return [_full_key(key) for key in options["keys"]]
        wanted = _wanted(options)
        if wanted == FailedFilter() and not options["all"]:
            raise CommandError("Name keys, or give --task PATH or --all.")
        chosen = [call.key for call in bulk.each(bulk.until_now(wanted))]
        if not chosen:
            self.stdout.write(_nothing(options))
        return chosen


def _add_filters(verb: Any) -> None:
    verb.add_argument("--task", help="failed calls of this task")
    verb.add_argument("--error", help="that raised this class, e.g. ValueError")
    verb.add_argument("--queue", help="that came from this queue")
    verb.add_argument(
        "--since", type=float, metavar="SECONDS", help="that failed so recently"
    )


def _wanted(options: dict[str, Any]) -> FailedFilter:
    since = None
    if options["since"] is not None:
        now = datetime.fromtimestamp(clock.now(), UTC)
        since = now - as_timedelta(options["since"], "--since")
    return FailedFilter(
        task=options["task"],
        kind=options["error"],
        queue=options["queue"],
        since=since,
    )


def _nothing(options: dict[str, Any]) -> str:
    of_task = f" of {options['task']}" if options["task"] else ""
    is_chosen = any(options.get(name) for name in ("error", "queue", "since"))
    chosen = " that match --error, --queue and --since" if is_chosen else ""
    return f"There are no failed tasks{of_task}{chosen}."


def _full_key(given: str) -> str:
    """The key that begins with `given`, which may end in dots, as pages show it.

    Raises CommandError if several keys begin so. An unknown key is returned as given.
    """
    start = given.rstrip(".\N{HORIZONTAL ELLIPSIS}")
    if not start or len(start) >= FULL_KEY:
        return given
    found = store().find_failed(start, limit=6)
    if start in found or not found:
        return start
    if len(found) > 1:
        shown = ", ".join(found[:5])
        raise CommandError(f"Several keys begin with {start!r}: {shown}, ...")
    return found[0]


def _lines(text: str) -> str:
    """`text` with control characters escaped, except for line ends."""
    return NEWLINE.join(printable(line) for line in text.split(NEWLINE))


def _moment(one: FailedCall) -> str:
    return f"{one.failed_at:%Y-%m-%d %H:%M:%S}" if one.failed_at else "?"
