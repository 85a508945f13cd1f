"""manage.py cloudtask_queues: compare queues with QUEUES, and create or change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cloudtask import conf, queues
from cloudtask.conf.queues import queues_of_service
from cloudtask.discretion import discreet
from cloudtask.management import printing
from cloudtask.queues import QueuesUnknown, applying, plan
from cloudtask.queues.actual import parent
from cloudtask.queues.listing import stats_of_part

QUEUE_YAML = "queue.yaml"
_NAME = "id of a queue"

_COLUMNS = (
    *("queue", "state", "waiting", "oldest due", "rate", "concurrency", "attempts"),
    "declared",
)
_VERBS: dict[str, tuple[Callable[[str], None], str]] = {
    "pause": (queues.pause, "paused: it takes tasks, sends none"),
    "resume": (queues.resume, "sends again"),
    "purge": (queues.purge, "being purged, which takes a minute"),
    "delete": (queues.delete, "deleted: its name can't be used for some days"),
}
_FINAL = {
    "purge": "All tasks are lost",
    "delete": "All tasks are lost, and the name can't be used for some days",
}


class Command(BaseCommand):
    help = "List queues, compare them with CLOUDTASK['QUEUES'], and make them alike."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="list the queues, and what waits in each")
        planning = verbs.add_parser("plan", help="show differences: status 3 if any")
        planning.add_argument(
            "--format",
            choices=["gcloud", "terraform"],
            help="print commands of gcloud, or resources of Terraform",
        )
        applied = verbs.add_parser("apply", help="create and change declared queues")
        applied.add_argument("--yes", action="store_true", help="do not ask")
        applied.add_argument(
            "--force", action="store_true", help="also change limits tenfold"
        )
        for verb in ("pause", "resume"):
            verbs.add_parser(verb).add_argument(
                "names", nargs="+", metavar="NAME", help=_NAME
            )
        for verb, text in (
            ("purge", "delete all tasks of a queue"),
            ("delete", "delete a queue with all its tasks"),
        ):
            final = verbs.add_parser(verb, help=text)
            final.add_argument("names", nargs=1, metavar="NAME", help=_NAME)
            final.add_argument("--confirm", metavar="NAME", help="the name once more")
        for added in verbs.choices.values():
            printing.add_json(added)
            printing.add_common(added, parser)

    @discreet
    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] in _VERBS:
            self._change(options)
            return
        verb: Callable[[dict[str, Any]], None] = getattr(self, "_" + options["verb"])
        try:
            verb(options)
        except QueuesUnknown as error:
            raise CommandError(str(error), returncode=printing.FAILED) from error

    def _list(self, options: dict[str, Any]) -> None:
        declared = queues_of_service(conf.settings().queues)
        rows = [
            {
                "queue": one.name,
                "state": one.state,
                **self._work_of(one.name),
                "rate": f"{one.rate:g}/s",
                "concurrency": one.concurrency,
                "attempts": one.max_attempts,
                "declared": one.name in declared,
            }
            for one in queues.list_queues().values()
        ]
        if options["json"]:
            for row in rows:
                self.stdout.write(printing.as_json(row))
        else:
            self.stdout.write(printing.as_table(_COLUMNS, rows))

    def _work_of(self, name: str) -> dict[str, Any]:
        """The tasks that wait, as the service estimates them; one request."""
        try:
            stats = stats_of_part(name)
        except QueuesUnknown as error:
            self.stderr.write(f"{name}: {error}")
            return {"waiting": None, "oldest due": ""}
        oldest = stats.oldest_at
        told = f"{oldest:%Y-%m-%d %H:%M:%S} UTC" if oldest else ""
        return {"waiting": stats.tasks, "oldest due": told}

    def _warn_of_queue_yaml(self) -> None:
        if Path(QUEUE_YAML).exists():
            self.stderr.write(
                f"There is a {QUEUE_YAML} here. An upload of it disables every queue "
                "that it omits, and changes the others. Use one of the two."
            )

    def _plan(self, options: dict[str, Any]) -> None:
        self._warn_of_queue_yaml()
        declared = conf.settings().queues
        if options["format"] == "terraform":
            self.stdout.write("\n".join(plan.as_terraform(declared, parent())))
            return
        steps = plan.planned(declared, queues.list_queues())
        if options["format"] == "gcloud":
            self.stdout.write("\n".join(plan.as_gcloud(steps, parent())))
        else:
            self._show(steps, options)
        if any(_needs_work(step) for step in steps):
            raise SystemExit(printing.FOUND)

    def _show(self, steps: list[plan.Step], options: dict[str, Any]) -> None:
        for step in steps:
            changes = {
                one.path: [one.before, plan.shown(one.after)]
                for one in step.differences
            }
            row = {"queue": step.name, "action": step.action, "changes": changes}
            if options["json"]:
                self.stdout.write(printing.as_json({**row, "note": step.note}))
                continue
            note = f" ({step.note})" if step.note else ""
            self.stdout.write(f"{step.action:<9}  {step.name}{note}")
            for one in step.differences:
                before = "" if step.seen is None else f"{plan.shown(one.before)} -> "
                self.stdout.write(
                    f"           {one.path}: {before}{plan.shown(one.after)}"
                )

    def _apply(self, options: dict[str, Any]) -> None:
        self._warn_of_queue_yaml()
        steps = plan.planned(conf.settings().queues, queues.list_queues())
        self._show(steps, options)
        writes = [step for step in steps if step.is_write]
        if not writes:
            return
        tenfold = [step.name for step in writes if step.is_tenfold]
        if tenfold and not options["force"]:
            raise CommandError(
                f"A limit would change tenfold: {', '.join(tenfold)}. Add --force if "
                "that is meant."
            )
        self._ask(options, len(writes))
        problems = 0
        for step in writes:
            try:
                applying.apply(step)
            except QueuesUnknown as error:
                problems += 1
                self.stderr.write(f"{step.name}: {error}")
        if problems:
            raise CommandError(f"{problems} failed.", returncode=printing.FAILED)

    def _ask(self, options: dict[str, Any], number: int) -> None:
        if options["yes"]:
            return
        try:
            given = input(f"Write {number} queues? [y/N] ")
        except EOFError:
            given = ""
        if given.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing is done: add --yes, or answer y.")

    def _change(self, options: dict[str, Any]) -> None:
        change, done = _VERBS[options["verb"]]
        names, problems = options["names"], 0
        lost = _FINAL.get(options["verb"])
        if lost and options["confirm"] != names[0]:
            raise CommandError(f"{lost}: add --confirm {names[0]}.")
        for name in names:
            try:
                change(name)
            except QueuesUnknown as error:
                problems += 1
                self.stderr.write(f"{name}: {error}")
            else:
                row = {"queue": name, "result": done}
                text = printing.as_json(row) if options["json"] else f"{name}: {done}"
                self.stdout.write(text)
        if problems:
            raise CommandError(f"{problems} failed.", returncode=printing.FAILED)


def _needs_work(step: plan.Step) -> bool:
    is_unlike = step.action == plan.UNMANAGED and bool(step.differences)
    return step.is_write or step.action == plan.DISABLED or is_unlike
