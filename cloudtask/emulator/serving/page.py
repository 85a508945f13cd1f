"""Renders the status page as HTML without scripts."""

from __future__ import annotations

import heapq
from collections import deque
from datetime import UTC, datetime
from html import escape
from itertools import islice

from cloudtask.emulator.dispatch import DispatchRecord, without_secrets
from cloudtask.emulator.queues import Queue, Task
from cloudtask.emulator.serving.engine import Engine

_SHOWN_TASKS = 10
_FOUND_TASKS = 100
_FORESEEN = 3

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 0 0 1.5rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.b { white-space: nowrap; }
form { display: inline; } button, input { font: inherit; } button { cursor: pointer; }
code { font-size: .9em; } .dim { opacity: .65; } h2 { margin: 1.5rem 0 .3rem; }
"""


def render(engine: Engine, search: str = "") -> str:
    """The page that shows the present state; with `search`, the tasks that it finds."""
    queues = sorted(engine.state.queues.values(), key=lambda queue: queue.name)
    now = engine.state.clock()
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Cloud Tasks emulator</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5"><style>{_STYLE}</style></head><body>
<h1>Cloud Tasks emulator</h1>
<p>gRPC on <code>{escape(engine.address)}</code>, REST on
<code>{escape(engine.http_address)}</code>, App Engine tasks to
<code>{escape(engine.settings.target)}</code>; {engine.log.count:,} dispatches,
{engine.dispatcher.in_flight:,} under way. {_button("/reset", "", "reset")}</p>
{_queue_table(queues, now)}
{_search_form(search)}
{"".join(_task_table(queue, search, now) for queue in queues if queue.tasks)}
{_error_table(engine.log.errors)}
</body></html>"""


def _queue_table(queues: list[Queue], now: float) -> str:
    rows = "".join(_queue_row(queue, now) for queue in queues)
    if not queues:
        rows = '<tr><td colspan="7">No queues: start with --queue NAME.</td></tr>'
    return (
        "<table><thead><tr><th>Queue</th><th>State</th><th>Tasks</th><th>Running</th>"
        "<th>Rate</th><th>Next</th><th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _queue_row(queue: Queue, now: float) -> str:
    eta = queue.next_eta()
    toggle = "resume" if queue.paused else "pause"
    buttons = _button(f"/queues/{toggle}", queue.name, toggle)
    buttons += " " + _button("/queues/purge", queue.name, "purge")
    return (
        f"<tr><td>{escape(queue.name)}</td>"
        f"<td>{'paused' if queue.paused else 'running'}</td>"
        f'<td class="n">{len(queue.tasks):,}</td><td class="n">{queue.running:,}</td>'
        f"<td>{_rate(queue, now)}</td><td>{'' if eta is None else _moment(eta, now)}"
        f'</td><td class="b">{buttons}</td></tr>'
    )


def _rate(queue: Queue, now: float) -> str:
    if not queue.rate_limits:
        return "unlimited"
    shown = f"{queue.config.rate:g}/s, {queue.config.concurrency:,} at once"
    factor = queue.throttle_factor(now)
    if factor == 1.0:
        return shown
    if factor == 0.0:
        return f"{shown}, on hold as the target asked (Retry-After)"
    return f"{shown}, throttled to {factor:.0%}"


def _search_form(search: str) -> str:
    return (
        '<form method="get" action="/" role="search"><label>Tasks with '
        f'<input type="search" name="q" value="{escape(search)}"></label> in their '
        "name or URL <button>search</button></form>"
    )


def _task_table(queue: Queue, search: str, now: float) -> str:
    found = _found(queue, search) if search else queue.tasks.values()
    soonest = heapq.nsmallest(_SHOWN_TASKS, found, key=_eta)
    if search:
        soonest = list(islice(sorted(found, key=_eta), _FOUND_TASKS))
    hidden = len(found) - len(soonest)
    if not soonest:
        return ""
    rows = "".join(_task_row(queue, task, now) for task in soonest)
    more = f'<p class="dim">and {hidden:,} more</p>' if hidden else ""
    return (
        f"<h2>{escape(queue.id)}</h2><table><thead><tr><th>Task</th><th>Target</th>"
        "<th>Next attempt</th><th>Attempts</th><th>Last answer</th><th></th></tr>"
        f"</thead><tbody>{rows}</tbody></table>{more}"
    )


def _found(queue: Queue, search: str) -> list[Task]:
    return [
        task
        for task in queue.tasks.values()
        if search in task.name or search in _where(task)
    ]


def _where(task: Task) -> str:
    message = task.message
    if task.is_app_engine:
        return str(message.app_engine_http_request.relative_uri)
    return str(message.http_request.url)


def _task_row(queue: Queue, task: Task, now: float) -> str:
    last = task.last_attempt
    answered = last is not None and last.response_time is not None
    status = (last.status or "no response") if last and answered else ""
    buttons = _button("/tasks/run", task.name, "run")
    buttons += " " + _button("/tasks/delete", task.name, "delete")
    return (
        f"<tr><td>{escape(task.id)}</td><td>{escape(without_secrets(_where(task)))}</td>"
        f"<td>{_next_attempts(queue, task, now)}</td>"
        f'<td class="n">{task.dispatch_count:,}</td><td>{status}</td>'
        f'<td class="b">{buttons}</td></tr>'
    )


def _next_attempts(queue: Queue, task: Task, now: float) -> str:
    """The next attempt, and the waits after it if all of them fail."""
    first = "running" if task.running else _moment(task.eta, now)
    waits = queue.waits(task, _FORESEEN)
    if not task.dispatch_count or not waits:
        return first
    after = ", ".join(f"{wait:g} s" for wait in waits)
    return f'{first}<span class="dim">, then after {after}</span>'


def _eta(task: Task) -> float:
    return task.eta


def _error_table(errors: deque[DispatchRecord]) -> str:
    if not errors:
        return ""
    rows = "".join(
        f'<tr><td class="dim">{_clock(record.started)}</td>'
        f"<td>{escape(str(record))}</td></tr>"
        for record in reversed(errors)
    )
    return f"<h2>Last failures</h2><table><tbody>{rows}</tbody></table>"


def _button(action: str, name: str, label: str) -> str:
    return (
        f'<form method="post" action="{action}">'
        f'<input type="hidden" name="name" value="{escape(name)}">'
        f"<button>{label}</button></form>"
    )


def _moment(moment: float, now: float) -> str:
    wait = moment - now
    if wait <= 0:
        return "due"
    return f"in {wait:.1f} s" if wait < 120 else _clock(moment)


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
