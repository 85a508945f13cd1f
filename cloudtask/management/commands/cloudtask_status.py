"""manage.py cloudtask_status: what needs a person, on one screen or for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask import clock
from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.runs import RunState
from cloudtask.sending import waiting
from cloudtask.sending.waiting import is_without_relay
from cloudtask.stores import store
from cloudtask.stores.failed import FailedFilter

STATES = (RunState.RUNNING, RunState.PAUSED, RunState.FAILED)

_REMEDY = "list --failed-rows, then retry-failures ID or discard-failures ID"
_COLUMNS = ("what", "number", "needs a person", "detail")


class Command(BaseCommand):
    help = "Show iterations, failed rows and tasks, outboxes and the relay at a glance."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--watch", type=float, metavar="SECONDS", help="again and again"
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="exit with status 3 if something needs a person",
        )
        printing.add_json(parser)

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        if options["watch"]:
            printing.live(
                self.stdout, options["watch"], lambda: (_text(options), False)
            )
        rows = list(_rows())
        if not options["watch"]:
            self.stdout.write(_text(options, rows))
        if options["check"] and any(row["needs a person"] for row in rows):
            raise SystemExit(printing.FOUND)


def _text(options: dict[str, Any], rows: Sequence[dict[str, Any]] | None = None) -> str:
    rows = list(_rows()) if rows is None else rows
    if options["json"]:
        return "\n".join(map(printing.as_json, rows))
    return printing.as_table(_COLUMNS, rows)


def _rows() -> Iterator[dict[str, Any]]:
    yield from _iterations()
    since = datetime.fromtimestamp(clock.now(), UTC) - timedelta(hours=24)
    failed = store().count_failed(FailedFilter(since=since))
    yield _row("failed tasks in 24 hours", failed, failed > 0)
    noted = store().upkeep()
    late = None
    for alias in waiting.aliases():
        counts = waiting.counts(alias)
        late = max(filter(None, (late, counts.late)), default=None)
        since_when = f"oldest {counts.oldest:%Y-%m-%d %H:%M}" if counts.oldest else ""
        yield _row(
            f"waiting in the outbox of {alias}", counts.waiting, False, since_when
        )
        yield _row(f"parked in the outbox of {alias}", counts.parked, counts.parked > 0)
    relay = noted.get("relay")
    is_late = is_without_relay(late, relay)
    told = (
        f"due for {int(late.total_seconds())} s: no relay runs"
        if is_late and late
        else ""
    )
    yield _row("messages that no relay sends", int(is_late), is_late, told)
    for job, note in sorted(noted.items()):
        yield _row(f"{job} ran", None, False, f"{note.ran_at:%Y-%m-%d %H:%M:%S} UTC")


def _iterations() -> Iterator[dict[str, Any]]:
    counts = store().count_iterations(STATES)
    for state, number in counts.runs.items():
        is_wrong = state is not RunState.RUNNING and number > 0
        yield _row(f"iterations {state}", number, is_wrong)
    rows = counts.failed_rows
    told = f"see cloudtask_iterations {_REMEDY}" if rows else ""
    yield _row("failed rows of kept iterations", rows, rows > 0, told)


def _row(
    what: str, number: int | None, is_wrong: bool, detail: str = ""
) -> dict[str, Any]:
    return {
        "what": what,
        "number": number,
        "needs a person": is_wrong,
        "detail": detail,
    }
