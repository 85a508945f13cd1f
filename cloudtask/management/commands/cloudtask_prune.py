"""manage.py cloudtask_prune: remove data that is no longer needed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask import conf, iteration
from cloudtask.delivering import executions, failed
from cloudtask.discretion import discreet
from cloudtask.models import results
from cloudtask.schedules import ticking
from cloudtask.sending import outbox, relay, uniqueness
from cloudtask.stores import note_upkeep, store
from cloudtask.stores.database.results import ResultsIn

A_DAY = timedelta(days=1)


class Command(BaseCommand):
    help = (
        "Remove failed tasks older than CLOUDTASK['KEEP_FAILED'], unused payloads, "
        "and records of tasks that can't be delivered again. Also remove iterations, "
        "and results of Django's tasks, that ended before that age."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--failed-older-than",
            type=float,
            metavar="DAYS",
            help="age of failed tasks to remove (default: CLOUDTASK['KEEP_FAILED'])",
        )
        parser.add_argument(
            "--limit", type=int, default=10_000, help="most rows to remove of each kind"
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="count the failed tasks and iterations that are due, remove nothing",
        )

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        settings, limit = conf.settings(), options["limit"]
        keep_failed = settings.keep_failed
        if options["failed_older_than"] is not None:
            keep_failed = timedelta(days=options["failed_older_than"])
        if options["dry_run"]:
            self.stdout.write(_due(keep_failed, limit))
            return
        tasks = failed.prune(keep_failed, limit)
        runs = iteration.prune(keep_failed, limit)
        # A payload may belong to a message in flight or to a failed task.
        unneeded = settings.max_age + settings.keep_failed
        aliases = [alias for alias in relay.aliases() if relay.has_outbox(alias)]
        for alias in aliases:
            outbox.keep_payloads(alias, A_DAY)
        payloads = store().prune_payloads(unneeded, limit)
        kept = store().prune_results(settings.max_age, limit)
        groups = store().prune_groups(unneeded, limit)
        starts = store().prune_starts(settings.max_age, limit)
        executed = unique = schedules = 0
        for alias in aliases:
            executed += executions.prune(alias, settings.max_age, limit)
            unique += uniqueness.prune(alias, limit)
            kept += results.prune(alias, keep_failed, limit)
            schedules += ticking.prune(alias, settings.keep_failed)
            kept += ResultsIn(alias).prune_results(settings.max_age, limit)
        report = _report(
            {
                "failed tasks": tasks,
                "payloads": payloads,
                "execution records": executed,
                "unique keys": unique,
                "results": kept,
                "iterations": runs,
                "groups": groups,
                "schedules": schedules,
                "late starts": starts,
            }
        )
        note_upkeep("prune", report)
        self.stdout.write(report)


def _due(keep_failed: timedelta, limit: int) -> str:
    """The deletions that a person may notice, as text."""
    tasks = len(store().old_failed(keep_failed, limit))
    runs = len(store().old_runs(keep_failed, limit))
    return f"would remove {tasks} failed tasks, {runs} iterations"


def _report(removed: Mapping[str, int]) -> str:
    if not any(removed.values()):
        return "There was nothing to remove."
    return "removed " + ", ".join(f"{count} {what}" for what, count in removed.items())
