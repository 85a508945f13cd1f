"""Pages of failed tasks: groups, calls, and one call with what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpResponse

from cloudtask import clock, models
from cloudtask.dashboard import audit
from cloudtask.dashboard.visits import Visit, not_found, page
from cloudtask.delivering import bulk
from cloudtask.exceptions import CloudTaskError
from cloudtask.registry import may_have, tasks
from cloudtask.stores import store
from cloudtask.stores.failed import FailedFilter
from cloudtask.stores.pages import MOST

LINES = 50  # failed calls on a page
GROUPS = 8  # groups that are shown above them
AT_ONCE = 100  # failed tasks that a request acts on; more are left to a task
SAMPLES = 5  # failed tasks that are shown before many are acted on

AGES = {
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(hours=24)),
    "7d": ("last 7 days", timedelta(days=7)),
}
VERBS = {
    "retry": ("retry_failed", bulk.retry, bulk.RETRY, "Retry"),
    "discard": ("discard_failed", bulk.discard, bulk.DISCARD, "Discard"),
}
_DONE = {"retry": "enqueued again", "discard": "discarded"}


def _wanted(visit: Visit) -> FailedFilter:
    age = AGES.get(visit.given("age") or "")
    now = datetime.fromtimestamp(clock.now(), UTC)
    return FailedFilter(
        task=visit.given("task"),
        kind=visit.given("kind"),
        group=visit.given("group"),
        queue=visit.given("queue"),
        since=now - age[1] if age else None,
    )


@page("failed", ["view_failed"])
def failed_list(visit: Visit) -> HttpResponse:
    wanted = _wanted(visit)
    if visit.request.method == "POST":
        return _act_on_many(visit, wanted)
    before = visit.given("before")
    try:
        found = store().page_failed(wanted, before=before, limit=LINES)
    except ValueError:  # the mark in the URL was altered
        found = store().page_failed(wanted, limit=LINES)
    groups = store().failed_groups(wanted, limit=GROUPS) if not wanted.group else []
    return visit.render(
        "failed.html",
        "Failed tasks",
        calls=found.items,
        next=found.next,
        is_first=before is None,
        groups=groups,
        number=store().count_failed(wanted),
        wanted=wanted,
        is_filtered=wanted != FailedFilter(),
        age=visit.given("age") or "",
        ages=AGES,
        tasks=sorted(p for p in tasks() if not p.startswith("cloudtask.")),
        may_retry=visit.may("retry_failed"),
        may_discard=visit.may("discard_failed"),
    )


# Many


def _act_on_many(visit: Visit, wanted: FailedFilter) -> HttpResponse:
    verb, _, scope = visit.request.POST.get("verb", "").partition("-")
    if verb not in VERBS:
        visit.say("There is no such action.", is_error=True)
        return visit.back()
    if scope == "all":
        return _act_on_all(visit, verb, wanted)
    keys = visit.request.POST.getlist("key")[:LINES]
    if not keys:
        visit.say("Choose failed tasks first.", is_error=True)
        return visit.back()
    right, act, _, _ = VERBS[verb]
    if verb == "discard":
        question = visit.confirm(right, _question(verb, len(keys), [], []))
        if question is not None:
            return question
    thing = models.Failed(id=keys[0] if len(keys) == 1 else f"{len(keys)} chosen")
    return visit.act(verb, right, thing, lambda: _done(verb, keys, act))


def _done(verb: str, keys: Sequence[str], act: Callable[[str], str]) -> str:
    """Act on each, and say what was done. Raises CloudTaskError if nothing was."""
    report = bulk.act_on(keys, act)
    problems = "; ".join(f"{key[:8]}: {why}" for key, why in report.problems[:3])
    if not report.done:
        raise CloudTaskError(f"Nothing was {_DONE[verb]}. {_late(problems)}")
    text = f"{report.done:,} {_DONE[verb]}."
    if report.problems:
        text += f" {len(report.problems):,} not: {problems}"
    return text


def _late(problems: str) -> str:
    if "There is no failed task" in problems:
        return "It is not here any more: it was retried or discarded before."
    return problems


def _act_on_all(visit: Visit, verb: str, wanted: FailedFilter) -> HttpResponse:
    right, act, task, title = VERBS[verb]
    visit.demand(right)
    wanted = replace(wanted, until=_until(visit))
    number = store().count_failed(wanted)
    if not number:
        visit.say("There is nothing to act on any more.", is_error=True)
        return visit.back()
    is_every = asdict(replace(wanted, until=None)) == asdict(FailedFilter())
    if not visit.request.POST.get("confirmed"):
        samples = store().page_failed(wanted, limit=SAMPLES).items
        question = _question(verb, number, samples, _described(wanted))
        question["verb"] = f"{verb}-all"
        question["extra"] = [("until", f"{wanted.until}"), ("all", f"{int(is_every)}")]
        return visit.confirm(right, question) or visit.back()
    if is_every and visit.request.POST.get("all") != "1":
        visit.say("Say that every failed task is meant: all=1.", is_error=True)
        return visit.back()
    thing = models.Failed(id="all that match")
    if number > AT_ONCE:
        return visit.act(
            verb, right, thing, lambda: _enqueued(task, title, number, wanted)
        )
    return visit.act(
        verb,
        right,
        thing,
        lambda: _done(verb, [call.key for call in bulk.each(wanted)], act),
    )


def _enqueued(task: str, title: str, number: int, wanted: FailedFilter) -> str:
    bulk.enqueue(task, wanted)
    shown = f"{MOST - 1:,} and more" if number >= MOST else f"{number:,}"
    return f"{title}: a task is enqueued that acts on {shown}, {bulk.PAGE} at a time."


def _until(visit: Visit) -> datetime:
    """The moment of the question, so that later failures are left alone."""
    try:
        given = datetime.fromisoformat(visit.request.POST.get("until", ""))
        # One near the ends of the calendar has no counterpart in UTC.
        return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(clock.now(), UTC)


def _described(wanted: FailedFilter) -> list[tuple[str, str]]:
    """The filter in words."""
    shown = {"task": "Task", "kind": "Error", "group": "Group", "queue": "Queue"}
    parts = [(word, getattr(wanted, name)) for name, word in shown.items()]
    if wanted.since is not None:
        parts.append(("Failed since", f"{wanted.since:%Y-%m-%d %H:%M} UTC"))
    return [(word, text) for word, text in parts if text] or [("Filter", "none: all")]


def _question(
    verb: str, number: int, samples: Sequence[Any], described: Sequence[Any]
) -> dict[str, Any]:
    shown = f"{MOST - 1:,}+" if number >= MOST else f"{number:,}"
    what = "failed task" if number == 1 else "failed tasks"
    sentences = {
        "retry": "Each is enqueued again, and its attempts are counted from zero.",
        "discard": "They are deleted with their arguments. That can't be undone.",
    }
    title = VERBS[verb][3]
    return {
        "title": f"{title} {shown} {what}?",
        "sentences": [sentences[verb]],
        "described": described,
        "samples": samples,
        "button": f"{title} {shown} {what}",
        "verb": verb,
    }


# One


@page("failed", ["view_failed"])
def failed_call(visit: Visit, key: str) -> HttpResponse:
    if visit.request.method == "POST":
        return _act_on_one(visit, key, visit.request.POST.get("verb", ""))
    call = store().load_failed(key)
    if call is None:
        return not_found(
            visit,
            "No such failed task",
            f"There is no failed task {key[:80]}. It was retried, discarded, or "
            "removed by cloudtask_prune.",
        )
    return visit.render(
        "failed_call.html",
        "Failed task",
        call=call,
        is_unknown=not may_have(call.task),
        may_see=visit.may("view_failed_details"),
        may_retry=visit.may("retry_failed"),
        may_discard=visit.may("discard_failed"),
        history=audit.history(models.Failed, key),
    )


def _act_on_one(visit: Visit, key: str, verb: str) -> HttpResponse:
    if verb not in VERBS:
        visit.say("There is no such action.", is_error=True)
        return visit.back()
    right, act, _, _ = VERBS[verb]
    if verb == "discard":
        question = visit.confirm(right, _question(verb, 1, [], []))
        if question is not None:
            return question
    return visit.act(
        verb,
        right,
        models.Failed(id=key),
        lambda: _done(verb, [key], act),
        to=visit.url("failed"),
    )
