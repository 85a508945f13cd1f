"""manage.py cloudtask_relay: send what waits in the outbox."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask import outbox
from cloudtask.iteration import sweep


class Command(BaseCommand):
    help = "Send the tasks that wait in the outbox, as cron does; see also --loop."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--database",
            action="append",
            help="an alias; may be given more than once (default: all)",
        )
        parser.add_argument("--limit", type=int, default=10_000, help="tasks at most")
        parser.add_argument("--seconds", type=float, default=60.0, help="time at most")
        parser.add_argument(
            "--loop", type=float, metavar="SECONDS", help="do it again after each pause"
        )
        parser.add_argument(
            "--parked", action="store_true", help="list what can't be sent, and why"
        )
        parser.add_argument(
            "--release", action="store_true", help="try again what was parked"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        aliases: list[str] = options["database"] or outbox.aliases()
        if options["parked"]:
            self._list_parked(aliases)
            return
        if options["release"]:
            released = sum(outbox.release(alias) for alias in aliases)
            self.stdout.write(f"{released} released")
        self._relay(aliases, options["limit"], options["seconds"])
        while options["loop"]:
            time.sleep(options["loop"])
            self._relay(aliases, options["limit"], options["seconds"])

    def _relay(self, aliases: list[str], limit: int, seconds: float) -> None:
        for alias in aliases:
            report = outbox.relay(alias, limit=limit, seconds=seconds)
            self.stdout.write(
                f"{alias}: {report.sent} sent, {report.postponed} postponed, "
                f"{report.parked} parked"
            )
        if swept := sweep():
            self.stdout.write(f"{swept} lost steps of iterations made again")

    def _list_parked(self, aliases: list[str]) -> None:
        for alias in aliases:
            for row in outbox.parked(alias):
                self.stdout.write(
                    f"{alias} {row.key} {row.task} on {row.queue}, since "
                    f"{row.created_at:%Y-%m-%d %H:%M:%S}: {row.error}"
                )
