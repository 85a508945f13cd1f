"""manage.py cloudtask_doctor: look for faults of a deployment, and name their cures."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask import doctor
from cloudtask.discretion import discreet
from cloudtask.doctor.findings import Grade, Wish
from cloudtask.management import printing

_IDS = [probe.id for probe in doctor.PROBES]


class Command(BaseCommand):
    help = (
        "Look at settings, tables, queues, the handler, the relay and what else a "
        "deployment needs, and say what to do about each fault."
    )
    requires_system_checks: list[str] = []  # it runs them itself

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--only",
            action="append",
            default=[],
            choices=_IDS,
            metavar="ID",
            help=f"ask this probe; may be given more than once ({', '.join(_IDS)})",
        )
        parser.add_argument(
            "--send",
            action="store_true",
            help="also send a task through each queue, and write to the store",
        )
        parser.add_argument(
            "--url", type=_address, help="address of the service, if settings lack it"
        )
        parser.add_argument(
            "--fail-on",
            choices=[Grade.WARNING.value, Grade.FAILED.value],
            default=Grade.FAILED.value,
            help="exit status 3 from this grade on (default: %(default)s)",
        )
        printing.add_json(parser)

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        wish = Wish(send=options["send"], url=options["url"])
        examined = doctor.examine(options["only"], wish=wish)
        for one in examined:
            for finding in one.findings:
                self._tell(one, finding, options)
        if not options["json"]:
            self.stdout.write(doctor.summary(examined))
        failing = (Grade.FAILED, Grade(options["fail_on"]))
        if any(f.grade in failing for one in examined for f in one.findings):
            raise SystemExit(printing.FOUND)

    def _tell(
        self, one: doctor.Examined, finding: doctor.Finding, options: dict[str, Any]
    ) -> None:
        if options["json"]:
            row = {
                "probe": one.probe,
                "grade": finding.grade,
                "what": finding.what,
                "cure": finding.cure,
                "ms": round(one.seconds * 1000),
            }
            self.stdout.write(printing.as_json(row))
            return
        grade = f"{finding.grade:<8}"
        if finding.is_fault:
            grade = self.style.ERROR(grade)
        elif finding.is_warning:
            grade = self.style.WARNING(grade)
        self.stdout.write(f"{grade}  {one.probe}: {finding.what}")
        if finding.cure:
            self.stdout.write(f"          {finding.cure}")


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("begin with https:// or http://")
    return text.rstrip("/")
