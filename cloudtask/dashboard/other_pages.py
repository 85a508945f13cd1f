"""Pages of known tasks, of results of `django.tasks`, and of the doctor."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from cloudtask.dashboard.known import known_tasks
from cloudtask.dashboard.visits import Visit, not_found, page
from cloudtask.models import TaskResultRow
from cloudtask.sending import waiting
from cloudtask.stores import store
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.pages import Page

LINES = 50
GROUPS = 500  # groups of failed tasks that are added up by task


@page("task", ["view_task"])
def task_list(visit: Visit) -> HttpResponse:
    failed: dict[str, int] = {}
    if visit.may("view_failed"):
        for group in store().failed_groups(limit=GROUPS):
            failed[group.task] = failed.get(group.task, 0) + group.number
    return visit.render("tasks.html", "Tasks", tasks=known_tasks(failed))


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
    except ValueError:  # the mark in the URL was altered
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
