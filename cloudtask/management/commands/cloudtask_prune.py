"""manage.py cloudtask_prune: remove data that is no longer needed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cloudtask import conf, iteration
from cloudtask.delivering import executions, failed
from cloudtask.delivering.executions import HORIZON
from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.models import results
from cloudtask.sending import outbox, relay, uniqueness
from cloudtask.stores import note_upkeep, store
from cloudtask.stores.database.results import ResultsIn
from cloudtask.stores.database.schedules import SchedulesIn

A_DAY = timedelta(days=1)
BATCH = 1_000  # rows of a kind that are looked for at once
# In the order of the report.
KINDS = (
    *("failed tasks", "payloads", "execution records", "unique keys", "results"),
    *("iterations", "groups", "schedules", "late starts", "marks of calls"),
)


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
            "--limit",
            type=int,
            help="most rows to remove of each kind (default: all that are due)",
        )
        parser.add_argument(
            "--seconds",
            type=float,
            default=600.0,
            help="longest time to work; a batch of each kind is removed in any case",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="count the failed tasks and iterations that are due, remove nothing",
        )

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        settings = conf.settings()
        keep_failed = settings.keep_failed
        if options["failed_older_than"] is not None:
            keep_failed = timedelta(days=options["failed_older_than"])
        if options["dry_run"]:
            self.stdout.write(_due(keep_failed, options["limit"] or BATCH))
            return
        work = _Work(options["limit"], options["seconds"])
        removed = _of_the_store(work, settings, keep_failed)
        for alias in relay.aliases():
            if relay.has_outbox(alias):
                removed += _of_a_database(work, settings, keep_failed, alias)
        report = _report(removed)
        note_upkeep("prune", report)
        self.stdout.write(report)
        if work.is_cut_short:
            self.stdout.write("The time is over. If more is due, run it again.")


class _Work:
    """Removes what is due in batches, until nothing, `limit` or no time is left.

    The time is that of all kinds together. A kind whose turn comes after it still loses
    one batch, so that none of them grows for ever.
    """

    def __init__(self, limit: int | None, seconds: float) -> None:
        self.limit = sys.maxsize if limit is None else limit
        self.stop = time.monotonic() + seconds
        self.is_cut_short = False

    def off(self, prune: Callable[[int], int]) -> int:
        """The number of rows that `prune`, which takes the size of a batch, removed."""
        removed = 0
        while removed < self.limit:
            most = min(BATCH, self.limit - removed)
            found = prune(most)
            removed += found
            if found < most:
                break
            if time.monotonic() >= self.stop:
                self.is_cut_short = True
                break
        return removed


def _of_the_store(
    work: _Work, settings: conf.Settings, keep_failed: timedelta
) -> Counter[str]:
    """Remove what the store keeps."""
    tasks = work.off(partial(failed.prune, keep_failed))
    runs = work.off(partial(iteration.prune, keep_failed))
    for alias in relay.aliases():
        if relay.has_outbox(alias):
            outbox.keep_payloads(alias, A_DAY)
    # A payload may belong to a message in flight or to a failed task.
    unneeded, max_age = settings.max_age + settings.keep_failed, settings.max_age
    kept = store()
    return Counter(
        {
            "failed tasks": tasks,
            "iterations": runs,
            "payloads": work.off(partial(kept.prune_payloads, unneeded)),
            "results": work.off(partial(kept.prune_results, max_age)),
            "groups": work.off(partial(kept.prune_groups, unneeded)),
            "schedules": work.off(partial(kept.prune_schedules, settings.keep_failed)),
            "late starts": work.off(partial(kept.prune_starts, max_age)),
            "marks of calls": work.off(partial(kept.prune_marks, unneeded + HORIZON)),
        }
    )


def _of_a_database(
    work: _Work, settings: conf.Settings, keep_failed: timedelta, alias: str
) -> Counter[str]:
    """Remove what a database with an outbox keeps, whatever the store is."""
    max_age = settings.max_age
    return Counter(
        {
            "execution records": work.off(partial(executions.prune, alias, max_age)),
            "unique keys": work.off(partial(uniqueness.prune, alias)),
            "results": work.off(partial(results.prune, alias, keep_failed))
            + work.off(partial(ResultsIn(alias).prune_results, max_age)),
            "schedules": work.off(
                partial(SchedulesIn(alias).prune_schedules, settings.keep_failed)
            ),
        }
    )


def _due(keep_failed: timedelta, limit: int) -> str:
    """The deletions that a person may notice, as text."""
    tasks = len(store().old_failed(keep_failed, limit))
    runs = len(store().old_runs(keep_failed, limit))
    return f"would remove {tasks} failed tasks, {runs} iterations"


def _report(removed: Counter[str]) -> str:
    if not any(removed.values()):
        return "There was nothing to remove."
    return "removed " + ", ".join(f"{removed[what]} {what}" for what in KINDS)
