"""Pages of known tasks, of results of `django.tasks`, and of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse

from cloudtask.dashboard.visits import Visit, not_found, page
from cloudtask.models import TaskResultRow
from cloudtask.options import Options
from cloudtask.registry import Definition, is_findable, tasks
from cloudtask.sending import waiting
from cloudtask.stores import store
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.pages import Page

LINES = 50
GROUPS = 500  # groups of failed tasks that are added up by task


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task of the project, or a name that failed tasks have and no task."""

    path: str
    failed: int
    options: dict[str, Any]
    queue: str = ""
    is_unknown: bool = False
    is_hidden: bool = False


@page("task", ["view_task"])
def task_list(visit: Visit) -> HttpResponse:
    failed: dict[str, int] = {}
    if visit.may("view_failed"):
        for group in store().failed_groups(limit=GROUPS):
            failed[group.task] = failed.get(group.task, 0) + group.number
    return visit.render("tasks.html", "Tasks", tasks=_known(failed))


def _known(failed: dict[str, int]) -> list[KnownTask]:
    """Unknown names first, then the tasks of the project."""
    known = {p: d for p, d in tasks().items() if not p.startswith("cloudtask.")}
    unknown = [
        KnownTask(path=path, failed=number, options={}, is_unknown=True)
        for path, number in sorted(failed.items())
        if path not in tasks()
    ]
    return unknown + [
        KnownTask(
            path=path,
            failed=failed.get(path, 0),
            options=_options(definition),
            queue=definition.options.queue,
            is_hidden=not is_findable(path),
        )
        for path, definition in sorted(known.items())
    ]


def _options(definition: Definition) -> dict[str, Any]:
    """The options that differ from the defaults."""
    own, default = definition.options, Options()
    return {
        name: value
        for name, value in own.travelling.items()
        if name != "queue" and value != default.travelling.get(name)
    }


@page("result", ["view_result"])
def result_list(visit: Visit) -> HttpResponse:
    alias = visit.given("of") or "default"
    known = waiting.aliases()
    alias = alias if alias in known else next(iter(known), "default")
    status, task = visit.given("status"), visit.given("task")
    rows = TaskResultRow.objects.using(alias)
    rows = rows.defer("call", "value", "errors")
    if status:
        rows = rows.filter(status=status)
    if task:
        rows = rows.filter(task=task)
    found = _page_of_results(rows, visit.given("before"))
    return visit.render(
        "results.html",
        "Results",
        rows=found.items,
        next=found.next,
        statuses=("READY", "RUNNING", "FAILED", "SUCCESSFUL"),
        chosen=status or "",
        task=task or "",
        of=alias,
        aliases=known,
        is_first=visit.given("before") is None,
    )


def _page_of_results(rows: Any, before: str | None) -> Page[Any]:
    def read(mark: str | None) -> Page[Any]:
        return page_of(
            rows, "enqueued_at", mark=mark, limit=LINES, made=lambda row: row
        )

    try:
        return read(before)
    except ValueError:  # a mark that somebody has changed
        return read(None)


@page("result", ["view_result"])
def result(visit: Visit, key: str) -> HttpResponse:
    for alias in waiting.aliases():
        row = TaskResultRow.objects.using(alias).defer("call", "value", "errors")
        found = row.filter(pk=key).first()
        if found is not None:
            return visit.render("result.html", "Result", row=found, of=alias)
    return not_found(
        visit,
        "No such result",
        f"There is no result {key[:80]}. It may have been removed by cloudtask_prune.",
    )
