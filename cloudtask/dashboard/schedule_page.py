"""The page of schedules: when each is due, and switches for them."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpResponse

from cloudtask import models
from cloudtask.dashboard.visits import Visit, page
from cloudtask.schedules import Declared, declared, ticking
from cloudtask.schedules.listed import listed


@page("schedule", ["view_schedule"])
def schedule_list(visit: Visit) -> HttpResponse:
    if visit.request.method == "POST":
        return _act(visit, visit.request.POST.get("verb", ""))
    may_control = visit.may("control_schedule")
    return visit.render(
        "schedules.html", "Schedules", lines=listed(), may_control=may_control
    )


def _enable(one: Declared) -> str:
    ticking.enable(one)
    return f"{one.key} is enabled. Moments that have passed get no calls."


def _disable(one: Declared) -> str:
    ticking.disable(one)
    return f"{one.key} is disabled. Calls that wait already still run."


def _run(one: Declared) -> str:
    return f"{one.key}: a call is enqueued as {ticking.run_now(one).id}."


_VERBS: dict[str, Callable[[Declared], str]] = {
    "enable": _enable,
    "disable": _disable,
    "run": _run,
}


def _act(visit: Visit, given: str) -> HttpResponse:
    verb, _, key = given.partition(":")
    one = declared().get(key)
    if verb not in _VERBS or one is None:
        visit.say("This version has no such schedule or action.", is_error=True)
        return visit.back()
    thing = models.Schedule(id=key)
    return visit.act(verb, "control_schedule", thing, lambda: _VERBS[verb](one))
