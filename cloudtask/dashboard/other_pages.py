"""Pages of known tasks and of results."""

from __future__ import annotations

from django.http import HttpResponse

from cloudtask.dashboard import kept
from cloudtask.dashboard.known import known_tasks
from cloudtask.dashboard.visits import Visit, not_found, page
from cloudtask.stores import store

LINES = 50
GROUPS = 500  # groups of failed tasks that are added up by task


@page("task", ["view_task"])
def task_list(visit: Visit) -> HttpResponse:
    failed = store().failed_by_task(GROUPS) if visit.may("view_failed") else {}
    return visit.render("tasks.html", "Tasks", tasks=known_tasks(failed))


@page("result", ["view_result"])
def result_list(visit: Visit) -> HttpResponse:
    known = kept.places()
    place = visit.given("of")
    place = place if place in known else next(iter(known), "default")
    chosen = {"status": visit.given("status"), "task": visit.given("task")}
    before = visit.given("before")
    try:
        found = kept.page(place, before=before, limit=LINES, **chosen)
    except ValueError:  # the mark in the URL was altered
        found = kept.page(place, limit=LINES, **chosen)
    return visit.render(
        "results.html",
        "Results",
        rows=found.items,
        next=found.next,
        statuses=kept.STATUSES,
        chosen=chosen["status"] or "",
        task=chosen["task"] or "",
        of=place,
        places=known,
        is_first=before is None,
    )


@page("result", ["view_result"])
def result(visit: Visit, key: str) -> HttpResponse:
    found = kept.find(key)
    if found is not None:
        return visit.render("result.html", "Result", row=found)
    return not_found(
        visit,
        "No such result",
        f"There is no result {key[:80]}. It may have been removed by cloudtask_prune.",
    )
