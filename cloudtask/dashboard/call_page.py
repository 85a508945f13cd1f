"""The page of calls: where one is, what waits in a queue, and a button that cancels."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from cloudtask import inspect, models
from cloudtask.dashboard.visits import Visit, page
from cloudtask.delivering.cancelling import Cancellation
from cloudtask.exceptions import CloudTaskError
from cloudtask.inspect import CallState, QueuesUnknown
from cloudtask.inspect.cancelling import MEANINGS, cancel
from cloudtask.queues import listing

LINES = 25
_ENDED = (CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED, CallState.UNKNOWN)


@page("call", ["view_call"])
def call_list(visit: Visit) -> HttpResponse:
    key, queue = visit.given("id"), visit.given("queue")
    if visit.request.method == "POST":
        return _act(visit, visit.request.POST.get("verb", ""), key)
    why, parts = "", {}
    try:
        parts = _found(visit, key) if key else _waiting(queue)
    except QueuesUnknown as error:
        why = str(error)
    return visit.render(
        "calls.html",
        "Calls",
        key=key,
        queue=queue,
        queues=listing.used(),
        why=why,
        **parts,
    )


def _found(visit: Visit, key: str) -> dict[str, Any]:
    may_see = visit.may("view_failed_details")
    found = inspect.find(key, full=may_see)
    # A chain may have a failed step, and a group members that run: both can be ended.
    is_over = found.state in _ENDED and found.step is None
    return {
        "found": found,
        "may_see": may_see,
        "may_cancel": visit.may("cancel_call") and not is_over,
    }


def _waiting(queue: str | None) -> dict[str, Any]:
    if queue is None:
        return {}
    return {"lines": [*inspect.tasks(queue, limit=LINES)], "most": LINES}


def _act(visit: Visit, verb: str, key: str | None) -> HttpResponse:
    visit.demand("cancel_call")
    if verb != "cancel" or key is None:
        visit.say("There is no such action.", is_error=True)
        return visit.back()
    question = visit.confirm("cancel_call", _cancelling(key))
    if question is not None:
        return question
    thing = models.Call(id=key[:80])
    return visit.act(verb, "cancel_call", thing, lambda: _cancelled(key))


def _cancelling(key: str) -> dict[str, Any]:
    return {
        "title": f"Cancel the call {key}?",
        "sentences": [
            "The call does not begin, if it has not begun. If it runs, it goes on, and "
            "it is not tried again if its task is cancellable.",
            "Of a chain or a group, no further step begins.",
        ],
        "button": "Cancel the call",
        "verb": "cancel",
    }


def _cancelled(key: str) -> str:
    answer = cancel(key)
    text = f"{key}: {answer.value}. That means: {MEANINGS[answer]}."
    if answer is Cancellation.TOO_LATE:
        raise CloudTaskError(text)
    return text
