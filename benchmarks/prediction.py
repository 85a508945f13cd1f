"""The simulator's prediction beside what the emulator does in real time."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from google.cloud import tasks_v2

from benchmarks import emulator
from benchmarks.harness import Effort
from benchmarks.results import TIME, Figure, Outcome, Verdict
from benchmarks.simulator.dispatch import Limits, drain

PREDICTED, MEASURED = "simulator", "emulator"
RATES = {200: 900, 500: 2_000}  # dispatches a second, and tasks
BURST = 100
MOST = 0.1  # of the predicted time
ABOUT = (
    "A queue is filled while it is paused, and then drains with its rate limit into a"
    " sink. The emulator does so in real time, and the simulator of"
    " [large loads](explanation/scale.md) in virtual time. On a busy machine the"
    " emulator falls behind its rate."
)


def outcome(effort: Effort) -> Outcome:
    figures, verdicts = [], []
    for rate, tasks in RATES.items():
        predicted = drain(
            tasks,
            Limits(rate=rate, burst=BURST),
            seconds_of=lambda task, attempt: 0.001,
        ).seconds
        measured = _measured(rate, tasks)
        measure = f"{tasks:,} tasks at {rate} a second"
        for case, seconds in ((PREDICTED, predicted), (MEASURED, measured)):
            figures.append(
                Figure(case=case, measure=measure, unit="seconds", samples=[seconds])
            )
        verdicts.append(
            Verdict(
                what=f"{measure}: emulator off the prediction",
                figure=abs(measured / predicted - 1),
                limit=MOST,
                unit="",
                reason=TIME,
            )
        )
    return Outcome(
        name="prediction",
        title="Dispatch of a queue: prediction and measurement",
        baseline=PREDICTED,
        about=ABOUT,
        figures=figures,
        verdicts=verdicts,
    )


def _measured(rate: int, tasks: int) -> float:
    """Seconds until the sink has all tasks."""
    with ExitStack() as stack:
        sink, port = emulator.free_port(), emulator.free_port()
        stack.enter_context(
            emulator.running([sys.executable, "-c", emulator.SINK, str(sink)], sink)
        )
        command = [
            sys.executable,
            "-m",
            "cloudtask.emulator",
            "--http-port=0",
            "--quiet",
        ]
        command += [f"--queue={emulator.QUEUE}", f"--port={port}"]
        stack.enter_context(emulator.running(command, port))
        client = stack.enter_context(emulator.client_of(port))
        limits = {"max_dispatches_per_second": rate, "max_burst_size": BURST}
        queue = tasks_v2.Queue(name=emulator.QUEUE, rate_limits=limits)
        client.update_queue(queue=queue)
        client.pause_queue(name=emulator.QUEUE)
        target = {"url": f"http://127.0.0.1:{sink}/", "body": b"x" * 200}
        one = {"parent": emulator.QUEUE, "task": {"http_request": target}}
        for _ in range(tasks // emulator.BATCH):
            batch = {"parent": emulator.QUEUE, "requests": [one] * emulator.BATCH}
            client.batch_create_tasks(request=batch)
        started = time.perf_counter()
        client.resume_queue(name=emulator.QUEUE)
        emulator.wait_for(lambda: emulator.count(sink) >= tasks, emulator.GIVE_UP)
        return time.perf_counter() - started
