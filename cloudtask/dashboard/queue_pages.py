"""The page of queues: what is declared beside what the service has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.http import HttpResponse

from cloudtask import conf, models, queues, quotas
from cloudtask.conf.queues import Queue, declared_name, queues_of_service
from cloudtask.dashboard.visits import Visit, page
from cloudtask.queues import ActualQueue, QueuesUnknown
from cloudtask.queues.listing import QueueStats, stats_cached
from cloudtask.queues.plan import differences


@page("queue", ["view_queue"])
def queue_list(visit: Visit) -> HttpResponse:
    if visit.request.method == "POST":
        return _act(visit, visit.request.POST.get("verb", ""))
    why = right = no_stats = ""
    actual: dict[str, queues.ActualQueue] = {}
    stats: dict[str, QueueStats] = {}
    try:
        actual = queues.list_cached()
    except QueuesUnknown as error:
        why, right = str(error), error.right
    else:
        stats, no_stats = _stats()
    return visit.render(
        "queues.html",
        "Queues",
        lines=_lines(actual, stats, is_known=not why),
        why=why,
        no_stats=no_stats,
        right=right,
        may_look=visit.may("view_call"),
        may_control=visit.may("control_queue") and not why,
        may_purge=visit.may("purge_queue") and not why,
    )


def _stats() -> tuple[dict[str, QueueStats], str]:
    """The work of the queues, and why it is not known."""
    try:
        return stats_cached(), ""
    except QueuesUnknown as error:
        return {}, str(error)


def _lines(
    actual: dict[str, Any], stats: dict[str, QueueStats], *, is_known: bool
) -> list[dict[str, Any]]:
    declared = conf.settings().queues
    wanted = queues_of_service(declared)
    return [
        {
            "name": name,
            "whole": _whole(name, declared),
            "declared": wanted.get(name),
            "actual": actual.get(name),
            "stats": stats.get(name),
            "is_missing": is_known and name not in actual,
            "differs": _differs(wanted.get(name), actual.get(name)),
        }
        for name in sorted({*wanted, *actual})
    ]


def _whole(name: str, declared: Mapping[str, Queue]) -> dict[str, Any] | None:
    """The queue of which `name` is a part; its first part leads the others."""
    whole = declared.get(declared_name(declared, name))
    if whole is None or whole.spread == 1 or name not in whole.parts:
        return None
    return {
        "name": whole.name,
        "rate": whole.rate and whole.rate * whole.spread,
        "is_first": name == whole.parts[0],
        "spread": whole.spread,
    }


def _differs(declared: Queue | None, actual: ActualQueue | None) -> list[str]:
    """The fields in which the service has something else."""
    if declared is None or actual is None:
        return []
    return [
        one.path.rpartition(".")[2].replace("_", " ")
        for one in differences(declared, actual)
    ]


_VERBS: dict[str, tuple[str, Callable[[str], None], str]] = {
    "pause": ("control_queue", queues.pause, "is paused: it takes tasks, sends none"),
    "resume": ("control_queue", queues.resume, "sends again"),
    "purge": ("purge_queue", queues.purge, "is being purged, which takes a minute"),
}


def _act(visit: Visit, given: str) -> HttpResponse:
    verb, _, name = given.partition(":")
    if verb not in _VERBS or not quotas.QUEUE.fullmatch(name):
        visit.say("There is no such action.", is_error=True)
        return visit.back()
    right, do, text = _VERBS[verb]
    if verb == "purge":
        question = visit.confirm(right, _purging(name))
        if question is not None:
            return question
        if visit.request.POST.get("typed", "").strip() != name:
            visit.say(
                f"Nothing was purged: the name typed is not {name!r}.", is_error=True
            )
            return visit.back()
    deed = partial(_done, do, name, f"Queue {name!r} {text}.")
    return visit.act(verb, right, models.Queue(id=name[:100]), deed)


def _done(do: Callable[[str], None], name: str, text: str) -> str:
    do(name)
    return text


def _purging(name: str) -> dict[str, Any]:
    return {
        "title": f"Purge the queue {name}?",
        "sentences": [
            "All tasks in the queue are deleted for good, also those that others have "
            "enqueued. Steps of iterations are made again by the sweeper; other tasks "
            "are lost."
        ],
        "typed": name,
        "button": "Purge the queue",
        "verb": f"purge:{name}",
    }
