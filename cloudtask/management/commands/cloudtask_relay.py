"""manage.py cloudtask_relay: send the tasks that wait in the outbox."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, close_old_connections, connections

from cloudtask import gauges
from cloudtask.discretion import discreet, printable
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.iteration import sweep
from cloudtask.management import printing
from cloudtask.options import nearest
from cloudtask.schedules.ticking import TickFailed, tick
from cloudtask.sending import relay

NONE_PARKED = "No task is parked."


class Command(BaseCommand):
    help = (
        "Send the tasks that wait in the outbox, and those that are due by a schedule: "
        "once, for cron, or with --loop. Exit status 1: a database can't be used, or "
        "all that was due is postponed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            action="append",
            default=[],
            help="an alias; may be given more than once (default: all with an outbox)",
        )
        parser.add_argument(
            "--limit", type=int, help="most tasks to send (default: all that are due)"
        )
        parser.add_argument(
            "--seconds", type=float, default=60.0, help="longest time to work"
        )
        parser.add_argument(
            "--loop",
            type=float,
            metavar="SECONDS",
            help="repeat with this pause, until SIGTERM or SIGINT",
        )
        parser.add_argument(
            "--parked",
            action="store_true",
            help="list tasks that can't be sent, and why",
        )
        parser.add_argument(
            "--release", action="store_true", help="try parked tasks again"
        )

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        chosen: list[str] = options["database"]
        for alias in chosen:
            if alias not in connections:
                raise CommandError(
                    f"There is no database {alias!r}; {nearest(alias, connections)}"
                )
        if options["parked"]:
            self._list_parked(chosen or _with_outbox())
            return
        if options["release"]:
            released = sum(relay.release(a) for a in chosen or _with_outbox())
            self.stdout.write(f"{released} released" if released else NONE_PARKED)
        if options["loop"] is None:
            try:
                report = self._relay(chosen, options)
            except DatabaseError as error:
                why = printable(str(error))
                raise CommandError(f"Not every outbox was relayed: {why}") from error
            if report.postponed and not report.sent:
                raise CommandError("Nothing was sent: all that was due is postponed.")
        else:
            self._loop(chosen, options)

    def _relay(
        self, chosen: Sequence[str], options: dict[str, Any]
    ) -> relay.RelayReport:
        self._tick()
        report = relay.relay_all(
            chosen, limit=options["limit"], seconds=options["seconds"]
        )
        is_empty = report == relay.RelayReport()
        self.stdout.write(
            "The outbox has nothing to send." if is_empty else str(report)
        )
        try:
            if made := sweep():
                self.stdout.write(f"{made} lost steps of iterations made again")
        except (DatabaseError, EnqueueUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  it is logged; the loop continues
            self.stderr.write(printable(f"Not every iteration was swept: {error}"))
        finally:
            gauges.report()
        return report

    def _tick(self) -> None:
        """Enqueue what is due by schedules; a failure does not stop the relay."""
        try:
            ticked = tick()
        except TickFailed as error:
            why = printable(str(error))
            self.stderr.write(f"Not every schedule was looked at: {why}")
            return
        if ticked.enqueued or ticked.missed:
            self.stdout.write(str(ticked))

    def _loop(self, chosen: Sequence[str], options: dict[str, Any]) -> None:
        with _stopping() as stop:
            while not stop.is_set():
                close_old_connections()
                try:
                    self._relay(chosen, options)
                except (DatabaseError, EnqueueUnavailable) as error:
                    # It may be available after the pause. A restart would not help.
                    why = printable(str(error))
                    self.stderr.write(f"Not all was relayed: {why}")
                stop.wait(options["loop"])
        self.stdout.write("stopped")

    def _list_parked(self, aliases: Sequence[str]) -> None:
        rows = [(alias, row) for alias in aliases for row in relay.parked(alias)]
        for alias, row in rows:
            line = (
                f"{alias} {row.key} {row.task} on {row.queue}, since "
                f"{row.created_at:%Y-%m-%d %H:%M:%S}: {row.error}"
            )
            self.stdout.write(printable(line))
        if not rows:
            self.stdout.write(NONE_PARKED)


def _with_outbox() -> list[str]:
    return [alias for alias in relay.aliases() if relay.has_outbox(alias)]


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the current relay ends first."""
    stop = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in signals}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
