"""manage.py cloudtask_cancel: keep calls, chains and groups from beginning."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask.delivering.cancelling import Cancellation
from cloudtask.discretion import discreet, printable
from cloudtask.exceptions import CloudTaskError
from cloudtask.inspect.cancelling import MEANINGS, cancel
from cloudtask.management import printing

REFUSED = "REFUSED"


class Command(BaseCommand):
    help = (
        "Keep calls from beginning, by their ids; of a chain or a group, all steps. "
        "Exit status 1: one of them was too late, is not known, or can't be cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="+", metavar="ID", help="id of a receipt")
        printing.add_json(parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        failures = 0
        for call_id in dict.fromkeys(options["ids"]):
            answer, why = _cancelled(call_id)
            failures += answer in (REFUSED, Cancellation.TOO_LATE.name)
            self._say(call_id, answer, why, is_json=options["json"])
        if failures:
            raise CommandError(
                f"{failures} of {len({*options['ids']})} were not cancelled.",
                returncode=printing.FAILED,
            )

    def _say(self, call_id: str, answer: str, why: str, *, is_json: bool) -> None:
        if is_json:
            row = {"id": call_id, "answer": answer, "why": why}
            self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printable(f"{call_id}  {answer}: {why}"))


def _cancelled(call_id: str) -> tuple[str, str]:
    """The answer for one call, and its meaning. One refusal must not stop the rest."""
    try:
        found = cancel(call_id)
    except CloudTaskError as error:
        return REFUSED, str(error)
    return found.name, MEANINGS[found]
