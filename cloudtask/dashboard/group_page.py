"""The page of groups: calls side by side, and how many of them have a value."""

from __future__ import annotations

from django.http import HttpResponse

from cloudtask.dashboard.visits import Visit, page
from cloudtask.stores import store

LINES = 25


@page("group", ["view_group"])
def group_list(visit: Visit) -> HttpResponse:
    before = visit.given("before")
    try:
        found = store().page_groups(before=before, limit=LINES)
    except ValueError:  # the mark in the URL was altered
        found = store().page_groups(limit=LINES)
    return visit.render(
        "groups.html",
        "Groups",
        lines=found.items,
        next=found.next,
        is_first=before is None,
        may_look=visit.may("view_call"),
    )
