"""Hours of a queue in milliseconds: its core, driven by a clock of our own."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from cloudtask.emulator.protocol import v2
from cloudtask.emulator.queues import (
    Dispatch,
    Queue,
    QueueConfig,
    Response,
    RetryPolicy,
    Task,
)

NAME = "projects/p/locations/l/queues/q"
START = 1_800_000_000.0
OK = Response(200)


@dataclass(frozen=True)
class Event:
    at: float
    dispatch: Dispatch
    running: int


def make_queue(*, retry: RetryPolicy | None = None, **config: object) -> Queue:
    return Queue(NAME, QueueConfig(retry=retry or RetryPolicy(), **config), now=START)


def make_task(
    task_id: str = "t", *, eta: float = START, app_engine: bool = False
) -> Task:
    message = v2.Task(name=f"{NAME}/tasks/{task_id}")
    if app_engine:
        message.app_engine_http_request.relative_uri = "/"
    else:
        message.http_request.url = "http://target/"
    return Task(task_id, message, eta, START)


def drive(
    queue: Queue,
    respond: Callable[[Dispatch], Response] = lambda _: OK,
    *,
    latency: float = 0.0,
    until: float = START + 30 * 86_400,
    shuffle: random.Random | None = None,
) -> list[Event]:
    """Dispatch what is due, answer after `latency` seconds, go on to the next event."""
    now, events = START, []
    answers: list[tuple[float, int, Dispatch]] = []
    while now <= until:
        while answers and answers[0][0] <= now:
            dispatch = heapq.heappop(answers)[2]
            queue.finish(dispatch, respond(dispatch), now=now)
        while (dispatch := queue.take(now, shuffle)) is not None:  # type: ignore[assignment]
            events.append(Event(now, dispatch, queue.running))
            heapq.heappush(answers, (now + latency, len(events), dispatch))
        delay = queue.delay(now)
        moments = [answers[0][0]] if answers else []
        if delay is not None:
            moments.append(now + max(delay, 1e-6))
        if not moments:
            break
        now = min(moments)
    return events
