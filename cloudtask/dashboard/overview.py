"""The first page: what needs a person, and what is going on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpResponse

from cloudtask import clock, conf
from cloudtask.conf.queues import queues_of_service
from cloudtask.dashboard import rights
from cloudtask.dashboard.iteration_pages import lines_of
from cloudtask.dashboard.visits import Visit, page
from cloudtask.queues import QueuesUnknown, list_cached
from cloudtask.runs import RunState
from cloudtask.sending import waiting
from cloudtask.sending.waiting import is_without_relay
from cloudtask.stores import store
from cloudtask.stores.failed import FailedFilter

A_DAY = timedelta(hours=24)
GROUPS = 50  # groups of failed calls that are added up; five are shown
SHOWN = 5

WORKING = (RunState.PLANNING, RunState.RUNNING, RunState.FINALIZING)
COUNTED = (*WORKING, RunState.WAITING, RunState.PAUSED, RunState.FAILED)


@page("overview", rights.PAGES)
def overview(visit: Visit) -> HttpResponse:
    parts: dict[str, Any] = {}
    if visit.may("view_iteration"):
        parts |= _iterations()
    if visit.may("view_failed"):
        parts |= _failed()
    if visit.may("view_outbox"):
        parts |= _outboxes()
    if visit.may("view_queue"):
        parts |= _queues()
    return visit.render("overview.html", "Overview", **parts, **_needs(parts))


def _iterations() -> dict[str, Any]:
    found = store().count_iterations(COUNTED)
    counts = found.runs
    runs = store().page_runs(states=WORKING, limit=SHOWN).items
    return {
        "running": sum(counts[state] for state in WORKING),
        "paused": counts[RunState.PAUSED],
        "failed_runs": counts[RunState.FAILED],
        "failed_rows": found.failed_rows,
        "lines": lines_of(runs),
    }


def _failed() -> dict[str, Any]:
    since = datetime.fromtimestamp(clock.now(), UTC) - A_DAY
    groups = store().failed_groups(FailedFilter(since=since), limit=GROUPS)
    return {
        "failed": sum(group.number for group in groups),
        "is_more_failed": len(groups) == GROUPS,
        "groups": groups[:SHOWN],
    }


def _outboxes() -> dict[str, Any]:
    outboxes = [waiting.counts(alias) for alias in waiting.aliases()]
    lates = [one.late for one in outboxes if one.late is not None]
    return {
        "outboxes": outboxes,
        "waiting": sum(one.waiting for one in outboxes),
        "parked": sum(one.parked for one in outboxes),
        "late": max(lates, default=None),
        "relay": store().upkeep().get("relay"),
    }


def _queues() -> dict[str, Any]:
    declared = conf.settings().queues
    try:
        actual = list_cached()
    except QueuesUnknown as error:
        return {"queues_unknown": str(error)}
    return {
        "stopped": [one for one in actual.values() if one.state != "RUNNING"],
        "missing": [one for one in queues_of_service(declared) if one not in actual],
        "queues": len(actual),
    }


def _needs(parts: dict[str, Any]) -> dict[str, Any]:
    """Whether anything needs a person, and whether anything is going on at all."""
    is_late = is_without_relay(parts.get("late"), parts.get("relay"))
    wrong = (
        *("failed", "failed_runs", "failed_rows", "paused"),
        *("parked", "stopped", "missing"),
    )
    is_calm = not is_late and not any(parts.get(name) for name in wrong)
    return {"is_late": is_late, "is_calm": is_calm}
