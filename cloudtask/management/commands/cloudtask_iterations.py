"""manage.py cloudtask_iterations: list, show, control and await iterations."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask.discretion import discreet, printable
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import control
from cloudtask.management import printing
from cloudtask.progress import progress_by, sums_of
from cloudtask.runs import ENDED, Run, RunState, ShardSums
from cloudtask.stores import store

PAGE = 100
BAR = 20  # characters
_ID = "id of an iteration"
AT_WORK = [state for state in RunState if state not in ENDED]
POLL = 1.0  # seconds between two looks of `wait`

_COLUMNS = ("id", "task", "state", "done", "failed", "skipped", "total", "created")
_WATCHED = ("id", "task", "state", "progress", "done", "failed", "total", "left")
_SHARDS = ("index", "state", "done", "failed", "skipped", "expected", "deaths")
_FAILURES = ("key", "shard", "state", "attempts", "error")
_VERBS: dict[str, tuple[str, Callable[[str], object]]] = {
    "pause": ("paused", control.pause),
    "resume": ("goes on", control.resume),
    "cancel": ("cancelled", control.cancel),
    "retry-failures": ("failed rows are tried again", control.retry_failures),
    "discard-failures": ("failed rows are discarded", control.discard_failures),
}


class Command(BaseCommand):
    help = (
        "List, show, pause, resume, cancel and await iterations; retry or discard "
        "their failed rows."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="list the latest, newest first")
        listing.add_argument(
            "--state",
            action="append",
            choices=[*RunState],
            help="only iterations in this state; may be given more than once",
        )
        listing.add_argument("--task", help="only iterations of this task")
        listing.add_argument(
            "--limit", type=int, default=50, help="most to list (default: 50)"
        )
        where = listing.add_mutually_exclusive_group()
        where.add_argument("--before", help="the mark that a list ended with")
        where.add_argument(
            "--failed-rows",
            action="store_true",
            help="only iterations with failed rows that were not retried or discarded",
        )
        show = verbs.add_parser("show", help="show one, with its progress")
        show.add_argument("ids", nargs=1, metavar="ID", help=_ID)
        show.add_argument(
            "--shards", action="store_true", help="each shard with its progress"
        )
        show.add_argument("--failures", action="store_true", help="failed rows")
        for verb in _VERBS:
            changing = verbs.add_parser(verb)
            changing.add_argument("ids", nargs="+", metavar="ID", help=_ID)
        self._add_waiting(verbs)
        for added in verbs.choices.values():
            printing.add_json(added)
            printing.add_common(added, parser)

    def _add_waiting(self, verbs: Any) -> None:
        waiting = verbs.add_parser("wait", help="until it has ended: 0 if it finished")
        waiting.add_argument("ids", nargs=1, metavar="ID", help=_ID)
        waiting.add_argument(
            "--timeout",
            type=float,
            metavar="SECONDS",
            help="longest time to wait (default: without end)",
        )
        watching = verbs.add_parser(
            "watch", help="a live table, until these have ended: 0 if all finished"
        )
        watching.add_argument(
            "ids", nargs="*", metavar="ID", help=f"{_ID} (default: all at work)"
        )
        watching.add_argument(
            "--seconds",
            type=float,
            default=2.0,
            help="time between two looks (default: 2)",
        )

    @discreet
    @printing.refusing
    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] in _VERBS:
            self._change(options)
        else:
            verb: Callable[[dict[str, Any]], None] = getattr(
                self, "_" + options["verb"]
            )
            verb(options)

    def _print(
        self,
        options: Mapping[str, Any],
        columns: Sequence[str],
        rows: Iterable[Mapping[str, Any]],
    ) -> None:
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(columns, rows))

    def _list(self, options: dict[str, Any]) -> None:
        if options["failed_rows"]:
            self._list_with_failures(options)
            return
        found, mark = list[Run](), options["before"]
        states = [RunState(state) for state in options["state"] or ()]
        while len(found) < options["limit"]:
            size = min(PAGE, options["limit"] - len(found))
            try:
                page = store().page_runs(
                    states=states, task=options["task"], before=mark, limit=size
                )
            except ValueError as error:
                raise CommandError(str(error)) from error
            found += page.items
            if (mark := page.next) is None:
                break
        self._print(options, _COLUMNS, _rows(found))
        if mark is not None and not options["json"]:
            self.stdout.write(printable(f"More: --before '{mark}'"))

    def _list_with_failures(self, options: dict[str, Any]) -> None:
        limit = options["limit"]
        found = store().runs_with_failures(limit + 1)
        wanted = [
            run
            for run in found[:limit]
            if run.state in (options["state"] or RunState)
            and options["task"] in (None, run.task)
        ]
        self._print(options, _COLUMNS, _rows(wanted))
        if len(found) > limit and not options["json"]:
            self.stdout.write("More iterations have failed rows: raise --limit.")

    def _show(self, options: dict[str, Any]) -> None:
        run = _loaded(options["ids"][0])
        shards = [] if run.is_summary else store().load_shards(run.id)
        row = _row(run, ShardSums.of(shards))
        row |= {"error": run.error, "waiting": run.waiting}
        if options["json"]:
            self.stdout.write(printing.as_json(row))
        else:
            for name, value in row.items():
                self.stdout.write(f"{name}: {printable(str(value))}")
        if options["shards"]:
            rows = [{name: getattr(one, name) for name in _SHARDS} for one in shards]
            self._print(options, _SHARDS, rows)
        if options["failures"]:
            page = store().page_failures(run.id, limit=PAGE)
            rows = [
                {name: getattr(one, name) for name in _FAILURES} for one in page.items
            ]
            self._print(options, _FAILURES, rows)

    def _change(self, options: dict[str, Any]) -> None:
        """Change each, even if that failed for an earlier one."""
        done, change = _VERBS[options["verb"]]
        problems = 0
        for run_id in options["ids"]:
            try:
                change(run_id)
            except CloudTaskError as error:
                problems += 1
                self.stderr.write(printable(f"{run_id}: {error}"))
            else:
                row = {"id": run_id, "result": done}
                text = printing.as_json(row) if options["json"] else f"{run_id}: {done}"
                self.stdout.write(text)
        if problems:
            raise CommandError(f"{problems} failed.", returncode=printing.FAILED)

    def _watch(self, options: dict[str, Any]) -> None:
        last: list[Run] = [_loaded(run_id) for run_id in options["ids"]]

        def draw() -> tuple[str, bool]:
            last[:] = [store().load_run(run.id) or run for run in last]
            is_over = bool(last) and all(run.state in ENDED for run in last)
            runs = last or store().page_runs(states=AT_WORK, limit=PAGE).items
            return _drawn(runs, as_json=options["json"]), is_over

        printing.live(self.stdout, options["seconds"], draw)
        if any(run.state is not RunState.FINISHED for run in last):
            sys.exit(printing.FAILED)

    def _wait(self, options: dict[str, Any]) -> None:
        run_id, limit = options["ids"][0], options["timeout"]
        stop = None if limit is None else time.monotonic() + limit
        run = _loaded(run_id)
        while run.state not in ENDED:
            if stop is not None and time.monotonic() >= stop:
                text = f"Iteration {run_id} is still {run.state}."
                raise CommandError(text, returncode=printing.FOUND)
            time.sleep(POLL)
            run = _loaded(run_id)
        row = {"id": run_id, "state": run.state}
        self.stdout.write(
            printing.as_json(row) if options["json"] else f"{run_id}: {run.state}"
        )
        if run.state is not RunState.FINISHED:
            sys.exit(printing.FAILED)


def _drawn(runs: Sequence[Run], *, as_json: bool) -> str:
    rows = _rows(runs)
    if as_json:
        return "\n".join(map(printing.as_json, rows))
    if not rows:
        return "No iteration is at work."
    return printing.as_table(
        _WATCHED,
        [{**row, "progress": _bar(row), "left": row["remaining"]} for row in rows],
    )


def _bar(row: Mapping[str, Any]) -> str:
    settled = row["done"] + row["failed"] + row["skipped"]
    if not row["total"]:
        return ""
    share = min(1.0, settled / row["total"])
    filled = int(BAR * share)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {int(share * 100)}%"


def _loaded(run_id: str) -> Run:
    run = store().load_run(run_id)
    if run is None:
        raise CommandError(
            f"There is no iteration {run_id!r}.", returncode=printing.FAILED
        )
    return run


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    sums = store().sums_of_shards([run.id for run in runs if not run.is_summary])
    return [_row(run, sums.get(run.id)) for run in runs]


def _row(run: Run, sums: ShardSums | None) -> dict[str, Any]:
    progress = progress_by(run, sums_of(run, sums))
    return {
        "id": run.id,
        "task": run.task,
        "queue": run.queue,
        "state": run.state,
        "done": progress.done,
        "failed": progress.failed,
        "skipped": progress.skipped,
        "total": progress.total,
        "is_estimated": progress.is_estimated,
        "remaining": progress.remaining,
        "created": run.created_at,
        "started": run.started_at,
        "finished": run.finished_at,
    }
