"""manage.py cloudtask_failed: list, show, retry and discard failed tasks."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask.delivering import bulk
from cloudtask.discretion import discreet, printable
from cloudtask.exceptions import CloudTaskError
from cloudtask.stores import FailedCall, store
from cloudtask.stores.failed import FailedFilter

NEWLINE = "\n"
FULL_KEY = 32  # characters


class Command(BaseCommand):
    help = "List, show, retry and discard tasks that will not be tried again."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the latest, newest first")
        listing.add_argument("--task", help="only failed calls of this task")
        listing.add_argument("--limit", type=int, default=50)
        verbs.add_parser("show", help="show arguments and traceback").add_argument(
            "keys", nargs="+", metavar="KEY"
        )
        for verb, what in (
            ("retry", "enqueue again"),
            ("discard", "delete, with the payload"),
        ):
            chosen = verbs.add_parser(verb, help=what)
            chosen.add_argument("keys", nargs="*", metavar="KEY")
            chosen.add_argument("--task", help="all failed calls of this task")
            chosen.add_argument("--all", action="store_true", help="every failed task")
        for added in verbs.choices.values():
            _add_common(added, parser)

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        verb: Callable[[dict[str, Any]], None] = getattr(self, "_" + options["verb"])
        verb(options)

    def _list(self, options: dict[str, Any]) -> None:
        found = store().list_failed(task=options["task"], limit=options["limit"])
        if not found:
            self.stdout.write(_nothing(options))
        for one in found:
            self.stdout.write(
                f"{one.key}  {_moment(one)}  {one.task} on {one.queue}, "
                f"{one.attempts} attempts: {printable(one.error.partition(NEWLINE)[0])}"
            )

    def _show(self, options: dict[str, Any]) -> None:
        for key in map(_full_key, options["keys"]):
            one = store().load_failed(key)
            if one is None:
                raise CommandError(f"There is no failed task {key!r}.")
            self.stdout.write(
                f"{one.key}\n  task: {one.task}\n  queue: {one.queue}\n"
                f"  name: {one.name}\n  attempts: {one.attempts}\n"
                f"  enqueued: {one.enqueued_at}\n  failed: {_moment(one)}\n"
                f"  arguments: {printable(one.arguments)}\n\n{_lines(one.traceback)}"
            )

    def _retry(self, options: dict[str, Any]) -> None:
        self._each(options, bulk.retry)

    def _discard(self, options: dict[str, Any]) -> None:
        self._each(options, bulk.discard)

    def _each(self, options: dict[str, Any], act: Callable[[str], str]) -> None:
        """Call `act` for every chosen key, even if it failed for an earlier one."""
        problems = 0
        for key in self._chosen(options):
            try:
                self.stdout.write(f"{key}: {act(key)}")
            except CloudTaskError as error:
                problems += 1
                self.stderr.write(f"{key}: {error}")
        if problems:
            raise CommandError(f"{problems} failed.")

    def _chosen(self, options: dict[str, Any]) -> list[str]:
        if options["keys"]:
            return [_full_key(key) for key in options["keys"]]
        if not options["task"] and not options["all"]:
            raise CommandError("Name keys, or give --task PATH or --all.")
        wanted = bulk.until_now(FailedFilter(task=options["task"]))
        chosen = [call.key for call in bulk.each(wanted)]
        if not chosen:
            self.stdout.write(_nothing(options))
        return chosen


def _add_common(verb: argparse.ArgumentParser, command: CommandParser) -> None:
    """Allow Django's common options also after the verb."""
    for action in command._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            again = copy.copy(action)
            again.default = argparse.SUPPRESS  # keeps a value given before the verb
            verb._add_action(again)


def _nothing(options: dict[str, Any]) -> str:
    of_task = f" of {options['task']}" if options["task"] else ""
    return f"There are no failed tasks{of_task}."


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
