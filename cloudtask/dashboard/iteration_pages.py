"""Pages of iterations: the list, and one with its shards and failed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.http import HttpResponse

from cloudtask import models
from cloudtask.dashboard import audit
from cloudtask.dashboard.visits import Visit, not_found, page
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import control
from cloudtask.progress import progress_by, sums_of
from cloudtask.registry import tasks
from cloudtask.runs import (
    GIVEN_UP,
    RUN_TRANSITIONS,
    Progress,
    Run,
    RunState,
    Shard,
    ShardState,
    ShardSums,
)
from cloudtask.stores import store
from cloudtask.stores.pages import Page

LINES = 25  # iterations on a page
ROWS = 25  # failed rows on a page
SHARDS = 50  # of a run that are shown; the open ones first
AT_ONCE = 1_000  # failed rows that a request changes; more are left to a task

STATES = [state for state in RunState if state is not RunState.ROLLED_BACK]


@dataclass(frozen=True, slots=True)
class Line:
    """An iteration in a list, and how far it is."""

    run: Run
    progress: Progress
    is_live: bool

    @property
    def value(self) -> int | None:
        """For the bar; None if the total is not known or was passed."""
        settled = self.settled
        return settled if 0 < settled <= self.progress.total else None

    @property
    def settled(self) -> int:
        return self.progress.done + self.progress.failed + self.progress.skipped

    @property
    def percent(self) -> int:
        return int(self.progress.fraction * 100)


def line_of(run: Run, sums: ShardSums | None) -> Line:
    is_live = run.state in (RunState.PLANNING, RunState.RUNNING, RunState.FINALIZING)
    return Line(run, progress_by(run, sums_of(run, sums)), is_live)


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """The runs with their progress, by one read of all their shards."""
    sums = store().sums_of_shards([run.id for run in runs if not run.is_summary])
    return [line_of(run, sums.get(run.id)) for run in runs]


@page("iteration", ["view_iteration"])
def iteration_list(visit: Visit) -> HttpResponse:
    state, task = visit.given("state"), visit.given("task")
    has_failed_rows = visit.given("rows") == "failed"
    found = _with_failed_rows() if has_failed_rows else _found(visit, state, task)
    return visit.render(
        "iterations.html",
        "Iterations",
        lines=lines_of(found.items),
        next=found.next,
        is_first=visit.given("before") is None,
        states=STATES,
        has_failed_rows=has_failed_rows,
        state=state or "",
        task=task or "",
        tasks=_own_tasks(),
    )


def _found(visit: Visit, state: str | None, task: str | None) -> Page[Run]:
    states = [one for one in STATES if one.value == state]
    try:
        return store().page_runs(
            states=states, task=task, before=visit.given("before"), limit=LINES
        )
    except ValueError:  # the mark in the URL was altered
        return store().page_runs(states=states, task=task, limit=LINES)


def _with_failed_rows() -> Page[Run]:
    """Without marks: more appear when these are retried or discarded."""
    return Page(tuple(store().runs_with_failures(LINES)))


def _own_tasks() -> list[str]:
    return sorted(path for path in tasks() if not path.startswith("cloudtask."))


# One


@page("iteration", ["view_iteration"])
def iteration(visit: Visit, key: str) -> HttpResponse:
    if visit.request.method == "POST":
        return _act(visit, key, visit.request.POST.get("verb", ""))
    run = store().load_run(key)
    if run is None:
        return not_found(
            visit,
            "No such iteration",
            f"There is no iteration {key[:80]}. Without keep=True it is deleted when "
            "it has finished. Or its transaction was rolled back, or cloudtask_prune "
            "has removed it.",
        )
    shards = [] if run.is_summary else store().load_shards(key)
    return visit.render("iteration.html", "Iteration", **_shown(visit, run, shards))


def _shown(visit: Visit, run: Run, shards: list[Shard]) -> dict[str, Any]:
    try:
        failures = store().page_failures(run.id, after=visit.given("after"), limit=ROWS)
    except ValueError:
        failures = store().page_failures(run.id, limit=ROWS)
    undone = [one for one in shards if one.state is not ShardState.DONE]
    done = [one for one in shards if one.state is ShardState.DONE]
    ordered = sorted(undone, key=lambda one: one.state is not ShardState.RUNNING)
    is_at_work = any(one.state is ShardState.RUNNING for one in shards)
    is_stopping = run.state in _STOPPING and is_at_work and store().is_at_work(run.id)
    return {
        "run": run,
        "line": line_of(run, ShardSums.of(shards)),
        "shards": [*ordered, *done][:SHARDS],
        "shard_count": len(shards),
        "undone": len(undone),
        "failures": failures.items,
        "next": failures.next,
        "is_first": visit.given("after") is None,
        "is_stopping": is_stopping,
        "given_up": GIVEN_UP,
        "may_see": visit.may("view_failed_details"),
        "verbs": _verbs(visit, run, bool(failures.items)),
        "history": [] if visit.is_fragment else audit.history(models.Iteration, run.id),
    }


_STOPPING = (RunState.PAUSED, RunState.CANCELLED, RunState.ABORTED)


def _verbs(visit: Visit, run: Run, has_failures: bool) -> list[str]:
    """Actions that the state of the run allows."""
    if not visit.may("control_iteration"):
        return []
    after = RUN_TRANSITIONS[run.state]
    found = []
    if run.state in (RunState.PAUSED, RunState.FAILED):
        found.append("resume")
    elif RunState.PAUSED in after and run.state is not RunState.FINISHED:
        found.append("pause")
    may_retry = (RunState.RUNNING, RunState.FINISHED, RunState.PAUSED)
    if has_failures and run.state in may_retry:
        found.append("retry")
    if has_failures:
        found.append("discard")
    if RunState.CANCELLED in after and run.finished_at is None:
        found.append("cancel")
    return found


def _act(visit: Visit, key: str, verb: str) -> HttpResponse:
    if verb not in _DEEDS:
        visit.say("There is no such action.", is_error=True)
        return visit.back()
    if verb in _QUESTIONS:
        question = visit.confirm("control_iteration", _QUESTIONS[verb](key))
        if question is not None:
            return question
    thing = models.Iteration(id=key)
    deed: Callable[[], str] = partial(_DEEDS[verb], key)
    return visit.act(verb, "control_iteration", thing, deed)


def _cancelling(key: str) -> dict[str, Any]:
    return {
        "title": "Cancel the iteration?",
        "sentences": [
            f"Iteration {key[:80]} stops for good. Finished rows keep their effects.",
            "The other rows are never called, and on_failure runs instead of finalize.",
        ],
        "button": "Cancel the iteration",
        "verb": "cancel",
    }


def _discarding(key: str) -> dict[str, Any]:
    return {
        "title": "Discard the failed rows?",
        "sentences": [
            f"The failed rows of iteration {key[:80]} are deleted with their errors.",
            "They can't be retried any more. The counts of the iteration stay.",
        ],
        "button": "Discard the failed rows",
        "verb": "discard",
    }


_QUESTIONS = {"cancel": _cancelling, "discard": _discarding}


def _pause(key: str) -> str:
    control.pause(key)
    return "Paused. Shards that are at work stop at their next checkpoint."


def _resume(key: str) -> str:
    control.resume(key)
    return "The iteration goes on."


def _cancel(key: str) -> str:
    control.cancel(key)
    return "Cancelled. Shards that are at work stop at their next checkpoint."


def _for_rows(
    path: str, change: Callable[[str], int], result: str
) -> Callable[[str], str]:
    """A deed to all failed rows of a run. If they are many, the task of `path` does
    it."""

    def deed(key: str) -> str:
        number = store().count_failures(key, given_up=True)
        if number > AT_ONCE:
            control.enqueue_for_rows(path, key)
            return f"{number:,} failed rows are {result} by a task, which is enqueued."
        changed = change(key)
        if not changed:
            raise CloudTaskError("There are no failed rows any more.")
        return f"{changed:,} failed rows are {result}."

    return deed


_DEEDS = {
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "retry": _for_rows(control.RETRY_ROWS, control.retry_failures, "tried again"),
    "discard": _for_rows(control.DISCARD_ROWS, control.discard_failures, "discarded"),
}
