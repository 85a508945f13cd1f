"""The messages of a run's steps: plan, walk, finalize, stop.

Each step may be delivered twice, late, or at once with itself. What it must do next is
durable before it returns, and every message that it sends has a name that follows from
the stored state: sending it again is how a redelivery repairs what a crash left undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cloudtask import failpoints, outbox, registry, runtime
from cloudtask.exceptions import DuplicateTask, EnqueueError, TaskNotFound
from cloudtask.message import Backoff, Message, Options
from cloudtask.registry import Definition
from cloudtask.stores.runs import Run

# Steps are not given up while their run lives; the sweeper has the last word.
STEP_ATTEMPTS = 1_000_000
STEP_BACKOFF = Backoff(timedelta(seconds=1), timedelta(minutes=1), 6)


def step(function: Callable[..., Any]) -> Definition:
    """Register one of the steps with the runtime."""
    definition = Definition(
        f"{function.__module__}.{function.__qualname__}",
        function,
        Options(max_attempts=STEP_ATTEMPTS, backoff=STEP_BACKOFF),
    )
    registry.register(definition)
    return definition


def message_of(
    definition: Definition, run: Run, *parts: int, delay: float = 0.0, **options: Any
) -> Message:
    """The message of a step, named by what it is to do: run, step, and numbers.

    `delay` is in seconds.
    """
    named = f"{run.id}:{definition.path}:" + ":".join(map(str, parts))
    chosen = replace(
        _options_of(run.task),
        queue=run.queue,
        name=hashlib.sha256(named.encode()).hexdigest()[:40],
        **{"countdown": timedelta(seconds=delay) if delay else None, **options},
    )
    return runtime.make_message(definition, chosen, (run.id, *parts), {})


def _options_of(task: str) -> Options:
    """Where the steps of a task's runs go: where its own calls would."""
    try:
        given = registry.find(task).options
    except TaskNotFound:
        given = Options()
    return Options(
        max_attempts=STEP_ATTEMPTS,
        backoff=STEP_BACKOFF,
        timeout=given.timeout,
        service=given.service,
        version=given.version,
        instance=given.instance,
        headers=given.headers,
    )


def send(*messages: Message) -> None:
    """Enqueue steps; that one is there already is as good."""
    if not messages:
        return
    failpoints.reached("step.before_send")
    try:
        outbox.send(messages)
    except EnqueueError as error:
        failures = error.failures.values() or [error]
        if not all(isinstance(failure, DuplicateTask) for failure in failures):
            raise
    failpoints.reached("step.after_send")
